/**
 * What JSON bodies may cost before they are whole: a limit for each route, bytes on their way bounded for all and for
 * each address, and a time after which a body that has not come is cut. Streams (uploads) have limits of their own
 * (flow/accept-upload.ts).
 */
import { Socket } from 'node:net';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Refusal } from '#shared/problems.ts';
import { refuse } from '#shared/problems.ts';
import { addressGroup } from '#shared/token-bucket.ts';
import { rawProblem } from './errors.ts';

/** Of a route that names no other: the largest form that people and devices fill in. */
export const JSON_BYTES_MAX = 64 * 1024;
/** An answer goes out before the connection is cut. */
const LINGER_MS = 1_000;

export type BodyLimits = {
  /** Bytes of bodies on their way at once, from all senders and from one address (of IPv6: one /64). */
  bytesMax: number;
  perAddressBytesMax: number;
  /** How long one body may take. */
  msMax: number;
};
/** From senders who have not said who they are. A device introduces itself with 2 to 20 kB. */
export const STRANGERS: BodyLimits = { bytesMax: 8 * 1024 * 1024, perAddressBytesMax: 2 * 1024 * 1024, msMax: 10_000 };
/** From operators, CI and devices; behind a proxy that is not trusted they all have one address. */
export const KNOWN: BodyLimits = { bytesMax: 128 * 1024 * 1024, perAddressBytesMax: 128 * 1024 * 1024, msMax: 25_000 };

export type BodyGuard = (request: FastifyRequest, reply: FastifyReply) => Refusal | undefined;

/** Asked before a body is read: lets it come and watches it, or says why not. */
export const openBodyGuard = (limits: BodyLimits): BodyGuard => {
  let onTheWay = 0;
  const byAddress = new Map<string, number>();
  const add = (address: string, bytes: number): void => {
    onTheWay += bytes;
    const sum = (byAddress.get(address) ?? 0) + bytes;
    if (sum === 0) byAddress.delete(address);
    else byAddress.set(address, sum);
  };

  return (request, reply) => {
    const limit = request.routeOptions.bodyLimit;
    const bytes = announcedBytes(request.raw.headers, limit);
    if (bytes === 0) return undefined;
    if (bytes > limit) return refuse('too-large', `the body may have ${limit} bytes on this route, not ${bytes}`);
    const address = addressGroup(request.ip);
    if ((byAddress.get(address) ?? 0) + bytes > limits.perAddressBytesMax)
      return refuse('rate-limited', 'this address sends too much at once; wait a moment');
    if (onTheWay + bytes > limits.bytesMax)
      return refuse('unavailable', 'too many requests are on their way; try again in a moment');
    add(address, bytes);
    const timer = setTimeout(() => cut(request, limits.msMax), limits.msMax);
    const done = (): void => {
      clearTimeout(timer);
      add(address, -bytes);
    };
    watchEnd(request, reply, done);
    return undefined;
  };
};

/** What a body may come to, by its header; 0 for a request without a body. */
const announcedBytes = (headers: Record<string, unknown>, limit: number): number => {
  if (headers['transfer-encoding'] !== undefined) return limit;
  const length = Number(headers['content-length'] ?? 0);
  return Number.isSafeInteger(length) && length > 0 ? length : 0;
};

/** Calls `done` once, when the body is whole, the request is answered, or its connection is gone. */
const watchEnd = ({ raw }: FastifyRequest, reply: FastifyReply, done: () => void): void => {
  let ended = false;
  const end = (): void => {
    if (ended) return;
    ended = true;
    done();
  };
  raw.once('end', end);
  raw.once('close', end);
  reply.raw.once('close', end);
};

/** An answer to a request that fastify still reads, and the end of its connection. */
const cut = ({ raw }: FastifyRequest, msMax: number): void => {
  const { socket } = raw;
  // An injected request has no connection.
  if (raw.complete || !(socket instanceof Socket) || socket.destroyed) return;
  socket.end(rawProblem('too-slow', `the body has not come within ${msMax / 1000} s`));
  setTimeout(() => socket.destroy(), LINGER_MS).unref();
};

/**
 * Artifacts, attachments, indexes and packs by digest, with ranges, so that an interrupted download goes on where it
 * stopped and any cache may keep them. A chunk is served by its digest too, out of the artifact that holds it.
 */
import type { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { constants, zstdCompress } from 'node:zlib';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { objectPath } from '#shared/device-api.ts';
import { Sha256 } from '#shared/ids.ts';
import { refuse } from '#shared/problems.ts';
import type { Role } from '#shared/route.ts';
import { WINDOW_LOG } from '#shared/transfer/pack.ts';
import type { Objects } from '../store/objects.ts';
import type { Store } from '../store/store.ts';
import { sendProblem } from './errors.ts';

/** 4 GB at 200 kB/s. A reader that stands still is cut off much earlier, by the connection's timeout. */
const TRANSFER_MS_MAX = 6 * 3_600_000;

/** Who reads what is signed or named by its digest. */
export const readers = (open: boolean): readonly Role[] =>
  open ? ['public'] : ['device', 'admin', 'operator', 'ci', 'viewer'];
/** What a name that holds a digest or a version says never changes. */
export const cacheForEver = (open: boolean): string => `${open ? 'public' : 'private'}, max-age=31536000, immutable`;

const Params = z.object({ sha256: Sha256 });

type ObjectDeps = { objects: Pick<Objects, 'open' | 'size'>; store: Pick<Store, 'findChunk'>; open: boolean };

/** Where the bytes of a digest are: an object by itself, or a chunk somewhere in an artifact. */
type Place = { object: Sha256; offset: number; bytes: number; chunk: boolean };

const locate = async (deps: ObjectDeps, sha256: Sha256): Promise<Place | undefined> => {
  const bytes = await deps.objects.size(sha256);
  if (bytes !== undefined) return { object: sha256, offset: 0, bytes, chunk: false };
  const found = await deps.store.findChunk(sha256);
  return found && { object: found.artifact, offset: found.offset, bytes: found.bytes, chunk: true };
};

export const objectRoutes = (app: FastifyInstance, deps: ObjectDeps): void => {
  app.route({
    method: ['GET', 'HEAD'],
    url: objectPath(':sha256'),
    config: { roles: readers(deps.open) },
    schema: { hide: true },
    handlerTimeout: TRANSFER_MS_MAX,
    handler: async (request, reply) => {
      const params = Params.safeParse(request.params);
      const place = params.success ? await locate(deps, params.data.sha256) : undefined;
      if (!params.success || place === undefined) return sendProblem(reply, NO_OBJECT);
      const encoded = place.chunk && takesZstd(request);
      // RFC 9110, section 8.8.3.3: other bytes on the wire, another strong tag.
      const etag = `"${params.data.sha256}${encoded ? '-zstd' : ''}"`;
      void reply.headers({ etag, 'accept-ranges': 'bytes', 'cache-control': cacheForEver(deps.open) });
      if (place.chunk) void reply.header('vary', 'accept-encoding');
      if (matches(request.headers['if-none-match'], etag)) return reply.code(304).send();
      if (encoded) return answerEncoded(reply, deps.objects, place);
      const range = rangeOf(request, etag, place.bytes);
      if (range === 'unsatisfiable') {
        void reply.code(416).header('cache-control', 'no-store');
        return reply.header('content-range', `bytes */${place.bytes}`).send();
      }
      return answer(reply, request.method === 'HEAD', deps.objects, place, range);
    },
  });
};

const NO_OBJECT = refuse('not-found', 'there is no such object');
type Range = { start: number; end: number };

const answer = async (
  reply: FastifyReply,
  head: boolean,
  objects: Pick<Objects, 'open'>,
  place: Place,
  range: Range | undefined,
): Promise<FastifyReply> => {
  void reply.type('application/octet-stream');
  const length = range === undefined ? place.bytes : range.end - range.start + 1;
  void reply.header('content-length', length);
  if (range !== undefined) {
    void reply.code(206).header('content-range', `bytes ${range.start}-${range.end}/${place.bytes}`);
  }
  if (head || length === 0) return reply.send();
  const stream = await read(objects, place, range);
  if (stream !== undefined) return reply.send(stream);
  void reply.removeHeader('content-length').removeHeader('content-range');
  return sendProblem(reply, NO_OBJECT);
};

/** Undefined: swept away in between, since nothing refers to it any more. */
const read = async (objects: Pick<Objects, 'open'>, place: Place, range?: Range): Promise<Readable | undefined> => {
  const { offset, bytes } = place;
  const { start, end } = range ?? { start: 0, end: bytes - 1 };
  return (await objects.open(place.object, { start: offset + start, end: offset + end }))?.stream;
};

const compress = promisify(zstdCompress);
/** As the frames of packs: without it the frame would ask for a window that readers refuse. */
const FRAME = { params: { [constants.ZSTD_c_windowLog]: WINDOW_LOG } };
/** A chunk has 112 KiB at most: it is compressed in memory, in the thread pool. */
const answerEncoded = async (
  reply: FastifyReply,
  objects: Pick<Objects, 'open'>,
  place: Place,
): Promise<FastifyReply> => {
  const stream = await read(objects, place);
  if (stream === undefined) return sendProblem(reply, NO_OBJECT);
  const body = await compress(await buffer(stream), FRAME);
  return reply.type('application/octet-stream').header('content-encoding', 'zstd').send(body);
};

/** Only who names it: a `*` says nothing about what a device can undo. */
const takesZstd = (request: FastifyRequest): boolean =>
  request.method === 'GET' &&
  request.headers.range === undefined &&
  (request.headers['accept-encoding'] ?? '')
    .split(',')
    .some((one) => /^\s*zstd\s*(;\s*q=(1|0?\.\d*[1-9]\d*).*)?$/.test(one));

const matches = (header: string | undefined, etag: string): boolean =>
  header?.split(',').some((one) => [etag, `W/${etag}`, '*'].includes(one.trim())) === true;

/**
 * RFC 9110, section 14: one range, or the whole object. Several ranges, other units, and what is not well formed are
 * answered with all of it, as the RFC allows; so is a range of what `If-Range` says is another object.
 */
const rangeOf = (request: FastifyRequest, etag: string, bytes: number): Range | 'unsatisfiable' | undefined => {
  const [, first, last] = /^bytes=(\d*)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
  if (request.method !== 'GET' || first === undefined || last === undefined || first + last === '') return undefined;
  const ifRange = request.headers['if-range'];
  if (ifRange !== undefined && ifRange !== etag) return undefined;
  if (first === '') {
    const suffix = Math.min(Number(last), bytes);
    return suffix === 0 ? 'unsatisfiable' : { start: bytes - suffix, end: bytes - 1 };
  }
  const start = Number(first);
  if (last !== '' && Number(last) < start) return undefined;
  if (start >= bytes) return 'unsatisfiable';
  return { start, end: last === '' ? bytes - 1 : Math.min(Number(last), bytes - 1) };
};

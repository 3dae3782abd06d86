/** Artifacts by digest, with ranges, so that an interrupted download goes on where it stopped and any cache may keep them. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { z } from 'zod';
import { objectPath } from '#shared/device-api.ts';
import { Sha256 } from '#shared/ids.ts';
import { refuse } from '#shared/problems.ts';
import type { Role } from '#shared/route.ts';
import type { Objects } from '../store/objects.ts';
import { sendProblem } from './errors.ts';

/** 4 GB at 200 kB/s. A reader that stands still is cut off much earlier, by the connection's timeout. */
const TRANSFER_MS_MAX = 6 * 3_600_000;

/** Who reads what is signed or named by its digest. */
export const readers = (open: boolean): readonly Role[] =>
  open ? ['public'] : ['device', 'admin', 'operator', 'ci', 'viewer'];
/** What a name that holds a digest or a version says never changes. */
export const cacheForEver = (open: boolean): string => `${open ? 'public' : 'private'}, max-age=31536000, immutable`;

const Params = z.object({ sha256: Sha256 });

export const objectRoutes = (
  app: FastifyInstance,
  deps: { objects: Pick<Objects, 'open' | 'size'>; open: boolean },
): void => {
  app.route({
    method: ['GET', 'HEAD'],
    url: objectPath(':sha256'),
    config: { roles: readers(deps.open) },
    schema: { hide: true },
    handlerTimeout: TRANSFER_MS_MAX,
    handler: async (request, reply) => {
      const params = Params.safeParse(request.params);
      const bytes = params.success ? await deps.objects.size(params.data.sha256) : undefined;
      if (!params.success || bytes === undefined)
        return sendProblem(reply, refuse('not-found', 'there is no such object'));
      const { sha256 } = params.data;
      const etag = `"${sha256}"`;
      void reply.headers({ etag, 'accept-ranges': 'bytes', 'cache-control': cacheForEver(deps.open) });
      if (matches(request.headers['if-none-match'], etag)) return reply.code(304).send();
      const range = rangeOf(request, etag, bytes);
      if (range === 'unsatisfiable') {
        return reply.code(416).header('cache-control', 'no-store').header('content-range', `bytes */${bytes}`).send();
      }
      return answer(reply, request.method === 'HEAD', deps.objects, sha256, bytes, range);
    },
  });
};

type Range = { start: number; end: number };

const answer = async (
  reply: FastifyReply,
  head: boolean,
  objects: Pick<Objects, 'open'>,
  sha256: Sha256,
  bytes: number,
  range: Range | undefined,
): Promise<FastifyReply> => {
  void reply.type('application/octet-stream');
  const length = range === undefined ? bytes : range.end - range.start + 1;
  void reply.header('content-length', length);
  if (range !== undefined) {
    void reply.code(206).header('content-range', `bytes ${range.start}-${range.end}/${bytes}`);
  }
  if (head || length === 0) return reply.send();
  const opened = await objects.open(sha256, range);
  // Swept away in between: nothing refers to it any more.
  if (opened === undefined) {
    void reply.removeHeader('content-length').removeHeader('content-range');
    return sendProblem(reply, refuse('not-found', 'there is no such object'));
  }
  return reply.send(opened.stream);
};

const matches = (header: string | undefined, etag: string): boolean =>
  header?.split(',').some((one) => [etag, `W/${etag}`, '*'].includes(one.trim())) === true;

/**
 * RFC 9110, section 14: one range, or the whole object. Several ranges, other units, and what is not well formed are
 * answered with all of it, as the RFC allows; so is a range of what `If-Range` says is another object.
 */
const rangeOf = (request: FastifyRequest, etag: string, bytes: number): Range | 'unsatisfiable' | undefined => {
  const [, first, last] = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(request.headers.range ?? '') ?? [];
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

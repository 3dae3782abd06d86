/**
 * The TUF repository over HTTP, as any TUF client reads it: consistent snapshots, so that everything but the timestamp
 * is immutable.
 */
import type { FastifyInstance, FastifyReply } from 'fastify';
import { z } from 'zod';
import { TUF_METADATA, TUF_TARGETS } from '#shared/device-api.ts';
import { refuse } from '#shared/problems.ts';
import type { Repository } from '../trust/repository.ts';
import { sendProblem } from './errors.ts';
import { cacheForEver, readers } from './objects.ts';

const Name = z.object({ '*': z.string().min(1).max(512) });

/** `open`: for everyone, so that a cache or CDN may serve it; else for devices and operators. */
export const tufRoutes = (
  app: FastifyInstance,
  deps: { repository: Pick<Repository, 'read'>; open: boolean },
): void => {
  const config = { roles: readers(deps.open) };
  const serve = async (kind: 'metadata' | 'targets', params: unknown, reply: FastifyReply): Promise<FastifyReply> => {
    const parsed = Name.safeParse(params);
    const name = parsed.data?.['*'] ?? '';
    const bytes = parsed.success ? await deps.repository.read(kind, name) : undefined;
    if (bytes === undefined) return sendProblem(reply, refuse('not-found', 'the repository has no such file'));
    const changes = kind === 'metadata' && name === 'timestamp.json';
    return reply
      .header('cache-control', changes ? 'no-cache' : cacheForEver(deps.open))
      .type('application/json')
      .send(bytes);
  };
  app.get(`${TUF_METADATA}*`, { config, schema: { hide: true } }, async (request, reply) =>
    serve('metadata', request.params, reply),
  );
  app.get(`${TUF_TARGETS}*`, { config, schema: { hide: true } }, async (request, reply) =>
    serve('targets', request.params, reply),
  );
};

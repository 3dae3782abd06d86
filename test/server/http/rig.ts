/** The API with the real store and flows behind it, and a token of each role. No sockets. */
import type { FastifyInstance } from 'fastify';
import { afterEach, beforeEach } from 'vitest';
import { createOperator } from '#server/flow/operators.ts';
import { apiRoutes } from '#server/http/api.ts';
import { buildApp } from '#server/http/app.ts';
import type { OperatorRole } from '#server/store/operators.ts';
import { Problem, refuse } from '#shared/problems.ts';
import type { Route } from '#shared/route.ts';
import { must, openWorld, type World } from '../flow/world.ts';

// oxlint-disable-next-line typescript/no-explicit-any -- tests read answers as they come
export type Answer = { status: number; body: any; headers: Record<string, unknown> };
export type Api = {
  world: World;
  app: FastifyInstance;
  tokens: Record<OperatorRole, string>;
  /** A path is below /api/v1/ unless it begins with a slash. `null`: without a token. */
  call(
    role: OperatorRole | null,
    method: Route['method'],
    path: string,
    payload?: object,
    headers?: Record<string, string>,
  ): Promise<Answer>;
};

/** Again for each test of the file, which is given it at its beginning. Returns how to call whichever is there. */
export const withApi = (onOpen: (api: Api) => void): Api['call'] => {
  let api: Api;
  let close: () => Promise<void>;
  beforeEach(async () => {
    const world = await openWorld();
    const tokens: Api['tokens'] = { admin: '', operator: '', ci: '', viewer: '' };
    for (const role of ['admin', 'operator', 'ci', 'viewer'] as const)
      tokens[role] = must(await createOperator(world, { name: `${role}-1`, role, by: 'server' })).token;
    const app = await buildApp({
      version: '0.0.1',
      findOperator: (sha256) => world.store.findOperator(sha256),
      verifyDevice: async () => refuse('unauthenticated', 'no devices here'),
    });
    apiRoutes(app, { ...world, version: '0.0.1', rootSha256: world.repository.rootSha256 });
    await app.ready();
    api = {
      world,
      app,
      tokens,
      call: async (role, method, path, payload, headers = {}) => {
        const answer = await app.inject({
          method,
          url: path.startsWith('/') ? path : `/api/v1/${path}`,
          headers: {
            ...(role === null ? {} : { authorization: `Bearer ${tokens[role]}` }),
            ...(Buffer.isBuffer(payload) ? { 'content-type': 'application/octet-stream' } : {}),
            ...headers,
          },
          ...(payload === undefined ? {} : { payload }),
        });
        const isJson = String(answer.headers['content-type']).includes('json;') || answer.statusCode >= 400;
        return { status: answer.statusCode, body: isJson ? answer.json() : answer.body, headers: answer.headers };
      },
    };
    onOpen(api);
    close = async () => {
      await app.close();
      await world.close();
    };
  });
  afterEach(() => close());
  return (...asked) => api.call(...asked);
};

/** Of an answer that is a problem: its status and code. */
export const problemOf = ({ status, body }: Answer): [number, string] => [status, Problem.parse(body).code];

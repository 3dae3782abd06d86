/** The API with the real store and flows behind it, and a token of each role. No sockets. */
import { afterEach, beforeEach } from 'vitest';
import { createOperator } from '#server/flow/operators.ts';
import { apiRoutes } from '#server/http/api.ts';
import { buildApp } from '#server/http/app.ts';
import type { OperatorRole } from '#server/store/store.ts';
import { Problem, refuse } from '#shared/problems.ts';
import type { Route } from '#shared/route.ts';
import { must, openWorld, type World } from '../flow/world.ts';

// oxlint-disable-next-line typescript/no-explicit-any -- tests read answers as they come
export type Answer = { status: number; body: any };
export type Api = {
  world: World;
  call(role: OperatorRole, method: Route['method'], path: string, payload?: object): Promise<Answer>;
};

/** Anew for each test of the file. */
export const withApi = (): (() => Api) => {
  let api: Api;
  let close: () => Promise<void>;
  beforeEach(async () => {
    const world = await openWorld();
    const tokens = new Map<OperatorRole, string>();
    for (const role of ['admin', 'operator', 'ci', 'viewer'] as const)
      tokens.set(role, must(await createOperator(world, { name: `${role}-1`, role, by: 'server' })).token);
    const app = await buildApp({
      version: '0.0.1',
      findOperator: (sha256) => world.store.findOperator(sha256),
      verifyDevice: async () => refuse('unauthenticated', 'no devices here'),
    });
    apiRoutes(app, { ...world, version: '0.0.1', rootSha256: world.repository.rootSha256 });
    await app.ready();
    api = {
      world,
      call: async (role, method, path, payload) => {
        const headers = { authorization: `Bearer ${tokens.get(role)}` };
        const url = `/api/v1/${path}`;
        const answer = await app.inject({ method, url, headers, ...(payload === undefined ? {} : { payload }) });
        return { status: answer.statusCode, body: answer.json() };
      },
    };
    close = async () => {
      await app.close();
      await world.close();
    };
  });
  afterEach(() => close());
  return () => api;
};

/** Of an answer that is a problem: its status and code. */
export const problemOf = ({ status, body }: Answer): [number, string] => [status, Problem.parse(body).code];

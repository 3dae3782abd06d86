import type { FastifyInstance } from 'fastify';
import { routes } from '#shared/api.ts';
import { accept } from '#shared/problems.ts';
import { createOperator, revokeOperator } from '../flow/operators.ts';
import type { Store } from '../store/store.ts';
import { handle } from './app.ts';
import { operatorView } from './views.ts';

export const operatorRoutes = (
  app: FastifyInstance,
  deps: { store: Store; version: string; now: () => number },
): void => {
  handle(app, routes.whoami, async ({ who }) => accept({ name: who.name, role: who.role, server: deps.version }));
  handle(app, routes.operatorCreate, async ({ body, who }) => createOperator(deps, { ...body, by: who.name }));
  handle(app, routes.operatorList, async () => {
    const operators = await deps.store.listOperators();
    return accept({ items: operators.map(operatorView) });
  });
  handle(app, routes.operatorRevoke, async ({ params, who }) => {
    const revoked = await revokeOperator(deps, { name: params.name, by: who.name });
    return revoked.ok ? accept({}) : revoked;
  });
};

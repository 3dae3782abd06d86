/** Every route of the operators' API, registered in one go. */
import type { FastifyInstance } from 'fastify';
import { auditRoutes } from './audit.ts';
import { changeRoutes } from './changes.ts';
import { cohortRoutes } from './cohorts.ts';
import { deviceRoutes } from './devices.ts';
import { driftRoutes } from './drift.ts';
import { operatorRoutes } from './operators.ts';
import { productRoutes } from './products.ts';
import { promotionRoutes } from './promotion.ts';
import { releaseRoutes } from './releases.ts';
import { rolloutRoutes } from './rollouts.ts';

export type ApiDeps = Parameters<typeof auditRoutes>[1] &
  Parameters<typeof cohortRoutes>[1] &
  Parameters<typeof deviceRoutes>[1] &
  Parameters<typeof operatorRoutes>[1] &
  Parameters<typeof productRoutes>[1] &
  Parameters<typeof releaseRoutes>[1] &
  Parameters<typeof promotionRoutes>[1] &
  Parameters<typeof changeRoutes>[1] &
  Parameters<typeof rolloutRoutes>[1];

export const apiRoutes = (app: FastifyInstance, deps: ApiDeps): void => {
  operatorRoutes(app, deps);
  productRoutes(app, deps);
  releaseRoutes(app, deps);
  promotionRoutes(app, deps);
  changeRoutes(app, deps);
  deviceRoutes(app, deps);
  cohortRoutes(app, deps);
  rolloutRoutes(app, deps);
  driftRoutes(app, deps);
  auditRoutes(app, deps);
};

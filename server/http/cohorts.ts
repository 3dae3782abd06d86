import type { FastifyInstance } from 'fastify';
import { routes } from '#shared/api.ts';
import { accept, refuse } from '#shared/problems.ts';
import { createCohort } from '../flow/rollout/create-cohort.ts';
import { countMembers } from '../flow/rollout/resolve-cohort.ts';
import type { Store } from '../store/store.ts';
import { handle } from './app.ts';
import { cohortView } from './views.ts';

export const cohortRoutes = (app: FastifyInstance, deps: { store: Store; now: () => number }): void => {
  handle(app, routes.cohortCreate, async ({ body, who }) => {
    const cohort = await createCohort(deps, { ...body, by: who.name });
    if (!cohort.ok) return cohort;
    const [devices = 0] = await countMembers(deps.store, [cohort.value]);
    return accept(cohortView(cohort.value, devices));
  });
  handle(app, routes.cohortList, async () => {
    const cohorts = await deps.store.listCohorts();
    const counts = await countMembers(deps.store, cohorts);
    return accept({ items: cohorts.map((cohort, index) => cohortView(cohort, counts[index] ?? 0)) });
  });
  handle(app, routes.cohortShow, async ({ params }) => {
    const cohort = await deps.store.getCohort(params.cohort);
    if (cohort === undefined) return refuse('not-found', `there is no cohort ${params.cohort}`);
    const [devices = 0] = await countMembers(deps.store, [cohort]);
    return accept(cohortView(cohort, devices));
  });
};

import type { FastifyInstance } from 'fastify';
import { routes } from '#shared/api.ts';
import type { Id } from '#shared/ids.ts';
import { accept } from '#shared/problems.ts';
import type { Channel } from '../domain/release/channel.ts';
import { adoptDrift, reconcileDrift } from '../flow/rollout/drift.ts';
import { reportRollout } from '../flow/rollout/report-rollout.ts';
import type { Rollouts } from '../flow/rollout/rollouts.ts';
import type { RunDeps } from '../flow/rollout/run-rollout.ts';
import { handle } from './app.ts';
import { pageOf } from './page.ts';
import { rolloutView } from './views.ts';

export const driftRoutes = (
  app: FastifyInstance,
  deps: RunDeps & { rollouts: Pick<Rollouts, 'wake'>; newId: () => Id; channels: readonly Channel[] },
): void => {
  handle(app, routes.driftList, async ({ query }) =>
    accept(
      pageOf(
        await deps.store.listDrifted(query),
        query.limit,
        (drift) => drift.device,
        (drift) => drift,
      ),
    ),
  );
  handle(app, routes.driftReconcile, async ({ body, who }) => {
    const planned = await reconcileDrift(deps, { devices: body.devices, by: who.name });
    if (!planned.ok) return planned;
    for (const { plan } of planned.value) deps.rollouts.wake(plan.id);
    const reports = await Promise.all(planned.value.map((rollout) => reportRollout(deps, rollout)));
    return accept({ items: reports.map(rolloutView) });
  });
  handle(app, routes.deviceAdopt, async ({ params, body, who }) =>
    adoptDrift(deps, { device: params.device, note: body.note, by: who.name }),
  );
};

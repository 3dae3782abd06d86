import type { FastifyInstance } from 'fastify';
import { routes } from '#shared/api.ts';
import type { Id } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import type { Channel } from '../domain/release/channel.ts';
import { nobodyLeftWords } from '../domain/rollout/recall.ts';
import type { Packs } from '../flow/release/packs.ts';
import { explainRollout } from '../flow/rollout/explain-rollout.ts';
import { planRollout } from '../flow/rollout/plan-rollout.ts';
import { queueRollouts } from '../flow/rollout/queue-rollouts.ts';
import { recallRollout } from '../flow/rollout/recall-rollout.ts';
import { reportRollout } from '../flow/rollout/report-rollout.ts';
import { resumeRollout } from '../flow/rollout/resume-rollout.ts';
import type { Rollouts } from '../flow/rollout/rollouts.ts';
import { type RunDeps, runRollout } from '../flow/rollout/run-rollout.ts';
import { approveRollout, steerRollout } from '../flow/rollout/steer-rollout.ts';
import type { RolloutRecord } from '../store/rollouts.ts';
import { handle } from './app.ts';
import { pageOf } from './page.ts';
import { parseReleaseRef } from './releases.ts';
import { deploymentView, queuedView, rolloutView } from './views.ts';

export const rolloutRoutes = (
  app: FastifyInstance,
  deps: RunDeps & {
    rollouts: Pick<Rollouts, 'wake'>;
    packs: Pick<Packs, 'wake'>;
    newId: () => Id;
    channels: readonly Channel[];
  },
): void => {
  const show = async (rollout: Result<RolloutRecord>) =>
    rollout.ok ? accept(rolloutView(await reportRollout(deps, rollout.value))) : rollout;
  const find = async (id: Id): Promise<Result<RolloutRecord>> => {
    const rollout = await deps.store.getRollout(id);
    return rollout === undefined ? refuse('not-found', `there is no rollout ${id}`) : accept(rollout);
  };
  /** What was decided is performed right away, not at the next tick. */
  const showAndWake = async (rollout: Result<RolloutRecord>) => {
    if (rollout.ok) deps.rollouts.wake(rollout.value.plan.id);
    return show(rollout);
  };

  handle(app, routes.rolloutCreate, async ({ body, who }) => {
    const name = parseReleaseRef(body.release);
    if (!name.ok) return name;
    const planned = await planRollout(deps, { ...body, ...name.value, by: who.name });
    if (!planned.ok) return planned;
    deps.packs.wake();
    await runRollout(deps, planned.value.plan.id);
    const shown = await showAndWake(await find(planned.value.plan.id));
    return shown.ok ? accept({ ...shown.value, notices: noticesOf(body.startAt, planned.value) }) : shown;
  });
  handle(app, routes.rolloutList, async ({ query }) => {
    const rollouts = await deps.store.listRollouts(query);
    const reports = await Promise.all(rollouts.map((rollout) => reportRollout(deps, rollout)));
    return accept(pageOf(reports, query.limit, (report) => report.rollout.plan.id, rolloutView));
  });
  handle(app, routes.rolloutShow, async ({ params }) => show(await find(params.rollout)));
  handle(app, routes.rolloutDeployments, async ({ params, query }) => {
    const rollout = await find(params.rollout);
    if (!rollout.ok) return rollout;
    const filter = { rollout: params.rollout, state: query.state };
    const deployments = await deps.store.listDeployments(filter, query);
    return accept(pageOf(deployments, query.limit, (deployment) => deployment.id, deploymentView));
  });
  handle(app, routes.rolloutExplain, ({ params, query }) =>
    explainRollout(deps, params.rollout, { ...query, verify: query.verify === 'true' }),
  );
  handle(app, routes.rolloutPause, async ({ params, body, who }) =>
    showAndWake(await steerRollout(deps, { rollout: params.rollout, verb: 'pause', note: body.note, by: who.name })),
  );
  handle(app, routes.rolloutResume, async ({ params, body, who }) =>
    showAndWake(
      await resumeRollout(deps, {
        rollout: params.rollout,
        note: body.note,
        by: who.name,
        acknowledge: body.acknowledgeFailures,
      }),
    ),
  );
  handle(app, routes.rolloutApprove, async ({ params, body, who }) =>
    showAndWake(await approveRollout(deps, { rollout: params.rollout, note: body.note, by: who.name })),
  );
  handle(app, routes.rolloutActivate, async ({ params, body, who }) =>
    showAndWake(await steerRollout(deps, { rollout: params.rollout, verb: 'activate', note: body.note, by: who.name })),
  );
  handle(app, routes.rolloutQueue, async () => accept({ items: (await queueRollouts(deps)).map(queuedView) }));
  handle(app, routes.rolloutRecall, async ({ params, body, who }) => {
    const recalled = await recallRollout(deps, { rollout: params.rollout, ...body, by: who.name });
    if (!recalled.ok) return recalled;
    const { rollout, nobodyLeft } = recalled.value;
    // The rollouts that it made are due at once.
    for (const { id } of await deps.store.listRecalls(params.rollout)) deps.rollouts.wake(id);
    const shown = await showAndWake(accept(rollout));
    return shown.ok ? accept({ ...shown.value, notices: nobodyLeft ? [nobodyLeftWords(rollout.plan)] : [] }) : shown;
  });
  handle(app, routes.rolloutAbort, async ({ params, body, who }) =>
    showAndWake(await steerRollout(deps, { rollout: params.rollout, verb: 'abort', note: body.note, by: who.name })),
  );
};

/** A time that is past is most often a slip: of the year, or of the time zone. */
const noticesOf = (startAt: number | undefined, { plan, progress }: RolloutRecord): string[] => {
  const { createdAt, policy } = plan;
  const notices: string[] = [];
  if (startAt !== undefined && startAt < createdAt) {
    const then = progress.state === 'awaiting-approval' ? 'as soon as it is approved' : 'at once';
    notices.push(`its start, ${new Date(startAt).toISOString()}, is past: it starts ${then}`);
  }
  if (typeof policy.activation === 'number' && policy.activation < createdAt)
    notices.push(
      `its activation, ${new Date(policy.activation).toISOString()}, is past: each device activates as soon as it has installed`,
    );
  return notices;
};

/** Which rollouts come in which order, and whom each waits for. */
import type { Blocker } from '#server/domain/rollout/blockers.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import { type BlockerDeps, blockersNow } from '../time/rollout-time.ts';
import { type ReportStore, type RolloutReport, reportRollout } from './report-rollout.ts';

export type Queued = RolloutReport & { waitsFor: Blocker[] };

type Deps = {
  store: ReportStore & Pick<Store, 'listOpenRollouts'>;
} & BlockerDeps;

/** All that are not over, in the order in which they get devices: highest priority first, then the oldest. */
export const queueRollouts = async (deps: Deps): Promise<Queued[]> =>
  Promise.all((await deps.store.listOpenRollouts()).map((rollout) => queued(deps, rollout)));

const queued = async (deps: Deps, rollout: RolloutRecord): Promise<Queued> => {
  const report = await reportRollout(deps, rollout);
  return { ...report, waitsFor: await blockersNow(deps, rollout.plan.id) };
};

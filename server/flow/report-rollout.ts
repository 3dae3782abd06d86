/** Everything there is to say about a rollout at this moment. */

import { blockedWords } from '../domain/blockers.ts';
import { explainRollout } from '../domain/explain.ts';
import type { RolloutRecord, Store } from '../store/store.ts';
import { type BlockerDeps, blockersNow } from './rollout-time.ts';

export type RolloutReport = {
  rollout: RolloutRecord;
  counts: Awaited<ReturnType<Store['countDeployments']>>;
  /** Devices that never began to act on an offer. */
  untouched: number;
  explanation: string;
};

export const reportRollout = async (
  deps: { store: Pick<Store, 'countDeployments' | 'countUntouched'> } & BlockerDeps,
  rollout: RolloutRecord,
): Promise<RolloutReport> => ({
  rollout,
  counts: await deps.store.countDeployments(rollout.plan.id),
  untouched: await deps.store.countUntouched(rollout.plan.id),
  explanation:
    explainRollout({ ...rollout.plan, progress: rollout.progress }, deps.now()) +
    (rollout.progress.state === 'running' ? blockedWords(await blockersNow(deps, rollout.plan.id)) : ''),
});

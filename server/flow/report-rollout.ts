/** Everything there is to say about a rollout at this moment. */

import type { DeploymentState } from '#shared/deployment.ts';
import type { OverdueClass } from '../domain/deployment.ts';
import { explainRollout } from '../domain/explain.ts';
import type { RolloutRecord, Store } from '../store/store.ts';
import { everyPage } from './every-page.ts';

type Count = { wave: number; state: DeploymentState; overdue: OverdueClass | null; devices: number };
export type RolloutReport = {
  rollout: RolloutRecord;
  counts: Count[];
  /** Devices that never began to act on an offer. */
  untouched: number;
  explanation: string;
};

export const reportRollout = async (
  deps: { store: Pick<Store, 'countDeployments' | 'listDeployments'>; now: () => number },
  rollout: RolloutRecord,
): Promise<RolloutReport> => {
  const { plan, progress } = rollout;
  const counts = await deps.store.countDeployments(plan.id);
  const withdrawn = counts.some((count) => count.state === 'withdrawn' && count.devices > 0);
  return {
    rollout,
    counts,
    untouched:
      counts.reduce((sum, count) => sum + (isUntouched(count) ? count.devices : 0), 0) +
      (withdrawn ? await countWithdrawnUntouched(deps.store, rollout) : 0),
    explanation: explainRollout({ ...plan, progress }, deps.now()),
  };
};

const isUntouched = ({ state, overdue }: Count): boolean => state === 'planned' || overdue === 'never-heard';

/** Some withdrawn devices had begun to fetch; the counters don't tell them from the others. */
const countWithdrawnUntouched = async (
  store: Pick<Store, 'listDeployments'>,
  rollout: RolloutRecord,
): Promise<number> => {
  let untouched = 0;
  const withdrawn = everyPage(
    (page) => store.listDeployments({ rollout: rollout.plan.id, state: 'withdrawn' }, page),
    (deployment) => deployment.id,
  );
  for await (const deployment of withdrawn) if (deployment.acceptedAt === null) untouched += 1;
  return untouched;
};

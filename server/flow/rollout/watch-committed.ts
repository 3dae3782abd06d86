/** Looks for late regressions: devices of a rollout that committed, and by their heartbeats do not do well. */

import { auditLine } from '#server/domain/audit.ts';
import { stepWatched } from '#server/domain/deployment/late-regression.ts';
import type { Store } from '#server/store/store.ts';
import type { Id } from '#shared/ids.ts';

/** Those left over are looked at with the next tick. */
const SUSPECTS_MAX = 1_000;

/** Moves them from the healthy to the failed, before anything is decided. How many they were. */
export const watchCommitted = async (
  deps: { store: Pick<Store, 'getRollout' | 'listSuspects' | 'saveRegressions'>; now: () => number },
  rollout: Id,
): Promise<number> => {
  const record = await deps.store.getRollout(rollout);
  if (record === undefined) return 0;
  const { policy } = record.plan;
  if (policy.watch.watchMs === 0) return 0;
  const now = deps.now();
  const suspects = await deps.store.listSuspects(rollout, now - policy.watch.watchMs, SUSPECTS_MAX);
  const moves = suspects.flatMap(({ deployment, health }) => {
    const { next, audit } = stepWatched(deployment, health, now, policy);
    return next === deployment ? [] : [{ next, audit: audit.map(auditLine) }];
  });
  return moves.length === 0 ? 0 : deps.store.saveRegressions(moves);
};

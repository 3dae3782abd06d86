/**
 * A device that committed and then calls itself unhealthy for as long as the policy says, while it is watched, does not
 * stay committed.
 */

import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import type { Id } from '#shared/ids.ts';
import type { Seen } from './rules-rows.ts';
import type { World } from './world.ts';

type Heartbeats = Parameters<Store['saveHeartbeats']>[0];
/** By the server's clock, but for `dueAt`: from then on someone should have noticed. */
type Ill = { since: number; dueAt: number | null };

/** A rollout at rest is looked at once a minute; the server may be down for a while, and its clock may step. */
const NOTICED_MS = 240_000;

export const openIllness = (
  world: World,
  seen: ReadonlyMap<Id, Seen>,
  rolloutOf: (id: Id) => RolloutRecord | undefined,
) => {
  const watched = new Map<Id, Id>();
  const ill = new Map<Id, Ill>();
  const forget = (device: Id): void => {
    watched.delete(device);
    ill.delete(device);
  };
  return {
    moved: ({ id, device, state }: DeploymentRecord): void => {
      // An offer of whatever rollout ends the watch: what happens from then on may be its doing.
      if (state === 'offered' || watched.get(device) === id) forget(device);
      if (state === 'committed') watched.set(device, id);
    },
    heard: (heartbeats: Heartbeats): void => {
      for (const { device, healthy, at } of heartbeats) {
        const row = seen.get(watched.get(device) ?? device)?.row;
        if (row === undefined || row.decidedAt === null || at < row.decidedAt) continue;
        if (healthy) {
          ill.delete(device);
          continue;
        }
        const policy = rolloutOf(row.rollout)?.plan.policy.watch;
        const known = ill.get(device) ?? { since: at, dueAt: null };
        const isDue = policy !== undefined && policy.watchMs > 0 && at - known.since >= policy.unhealthyMs;
        // Shortly before its watch ends no one need notice.
        const isInTime = at + NOTICED_MS < row.decidedAt + (policy?.watchMs ?? 0);
        const dueAt = isDue && isInTime ? world.time.now() + NOTICED_MS : null;
        ill.set(device, { ...known, dueAt: known.dueAt ?? dueAt });
      }
    },
    /** A day of reckoning. */
    recount: (): void => {
      for (const [device, { dueAt }] of ill) {
        const row = seen.get(watched.get(device) ?? device)?.row;
        if (row?.state === 'committed' && dueAt !== null && world.time.now() > dueAt)
          world.violate(`${device} has been ill since it committed ${row.id}, and no one noticed`);
      }
    },
    /** The server went down: no one could notice. */
    postpone: (): void => {
      for (const [device, one] of ill) ill.set(device, { ...one, dueAt: null });
    },
  };
};

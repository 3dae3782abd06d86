/** What must hold of all that is stored, at any moment: now and then everything is counted again. */
import { OWNING_STATES } from '#server/store/sqlite/deployments.ts';
import type { SyncStore } from '#server/store/sqlite/sync.ts';
import type { Id } from '#shared/ids.ts';
import type { Seen } from './rules-rows.ts';
import type { World } from './world.ts';

const ALL = { limit: 10_000 };

export const checkTables = (world: World, store: SyncStore, seen: ReadonlyMap<Id, Seen>): void => {
  for (const { plan } of store.listRollouts({ limit: 1_000 })) {
    checkCounters(world, store, plan.id);
    checkUnseen(world, store, plan.id, seen);
  }
  checkOwners(world, store);
};

/** Counters equal what a recount gives. */
const checkCounters = (world: World, store: SyncStore, rollout: Id): void => {
  const [counted, recounted] = [store.countDeployments(rollout), store.recountDeployments(rollout)];
  if (inWords(counted) !== inWords(recounted))
    world.violate(`rollout ${rollout} counts ${inWords(counted)}, but there are ${inWords(recounted)}`);
};

const inWords = (counts: ReturnType<SyncStore['countDeployments']>): string =>
  counts
    .filter(({ devices }) => devices !== 0)
    .map(({ wave, state, overdue, devices }) => `${wave}/${state}/${overdue ?? ''}=${devices}`)
    .sort()
    .join();

/** No deployment moved but in calls that were looked at, each with its audit line; and a device has one deployment in a rollout. */
const checkUnseen = (world: World, store: SyncStore, rollout: Id, seen: ReadonlyMap<Id, Seen>): void => {
  const devices = new Set<Id>();
  for (const row of store.listDeployments({ rollout }, ALL)) {
    const known = seen.get(row.id)?.row.state;
    if (known !== row.state)
      world.violate(`deployment ${row.id} went from ${known} to ${row.state}, and nobody said so`);
    if (devices.has(row.device)) world.violate(`${row.device} is in rollout ${rollout} twice`);
    devices.add(row.device);
  }
};

/** Whoever owns a device is a deployment of it that is under way. */
const checkOwners = (world: World, store: SyncStore): void => {
  for (const device of store.listDevices({}, ALL)) {
    if (device.deployment === null) continue;
    const owner = store.getDeployments([device.deployment])[0];
    if (owner?.device !== device.id || !OWNING_STATES.includes(owner.state))
      world.violate(
        `${device.id} is owned by ${device.deployment}, which is ${owner?.state ?? 'nowhere'} on ${owner?.device}`,
      );
  }
};

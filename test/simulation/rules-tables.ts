/** What must hold of all that is stored, at any moment: now and then everything is counted again. */
import { type DeploymentRecord, owns } from '#server/domain/deployment/deployment.ts';
import type { Id } from '#shared/ids.ts';
import type { Count, Rows } from './rows.ts';
import type { Seen } from './rules-rows.ts';
import type { World } from './world.ts';

export const checkTables = (world: World, rows: Rows, seen: ReadonlyMap<Id, Seen>): void => {
  for (const { plan } of rows.rollouts()) {
    checkCounters(world, rows, plan.id);
    checkUnseen(world, rows, plan.id, seen);
  }
  checkOwners(world, rows);
};

/** Counters equal what a recount gives. */
const checkCounters = (world: World, rows: Rows, rollout: Id): void => {
  const [counted, recounted] = [rows.counters(rollout), recount(rows.deployments({ rollout }))];
  if (inWords(counted) !== inWords(recounted))
    world.violate(`rollout ${rollout} counts ${inWords(counted)}, but there are ${inWords(recounted)}`);
};

const recount = (deployments: readonly DeploymentRecord[]): Count[] =>
  [...Map.groupBy(deployments, ({ wave, state, overdue }) => `${wave}/${state}/${overdue}`).values()].map((alike) => ({
    ...alike[0]!,
    devices: alike.length,
  }));

const inWords = (counts: readonly Count[]): string =>
  counts
    .filter(({ devices }) => devices !== 0)
    .map(({ wave, state, overdue, devices }) => `${wave}/${state}/${overdue ?? ''}=${devices}`)
    .sort()
    .join();

/**
 * No deployment moved but in calls that were looked at, each with its audit line; and a device has one deployment in a
 * rollout.
 */
const checkUnseen = (world: World, rows: Rows, rollout: Id, seen: ReadonlyMap<Id, Seen>): void => {
  const devices = new Set<Id>();
  for (const row of rows.deployments({ rollout })) {
    const known = seen.get(row.id)?.row.state;
    if (known !== row.state)
      world.violate(`deployment ${row.id} went from ${known} to ${row.state}, and no one said so`);
    if (devices.has(row.device)) world.violate(`${row.device} is in rollout ${rollout} twice`);
    devices.add(row.device);
  }
};

/** What owns a device is a deployment of it that is under way. */
const checkOwners = (world: World, rows: Rows): void => {
  for (const device of rows.devices()) {
    if (device.deployment === null) continue;
    const owner = rows.deployments({ ids: [device.deployment] })[0];
    if (owner?.device !== device.id || !owns(owner))
      world.violate(
        `${device.id} is owned by ${device.deployment}, which is ${owner?.state ?? 'nowhere'} on ${owner?.device}`,
      );
  }
};

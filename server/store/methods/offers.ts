/** Offering a rollout's release to devices, within the transaction that saves the rollout. */
import { type DeploymentRecord, offersOf } from '#server/domain/deployment/deployment.ts';
import { offer, SERVER_MOVES, skip } from '#server/domain/deployment/server-moves.ts';
import { SHARED_MS } from '#server/domain/device/boots.ts';
import { inBatches } from '#shared/batches.ts';
import type { Id } from '#shared/ids.ts';
import type { OpenSpan } from '#shared/windows.ts';
import type { OfferRequest } from '../rollouts.ts';
import { idList, rowList, type Sql } from '../sql.ts';
import { type DeploymentRow, deploymentColumns, toDeployment } from './deployments.ts';
import { instruct } from './desired.ts';
import { saveMoved } from './moves.ts';
import { hasRivalsAbove, takeDevices, wantedByNobodyAbove, zonesOf } from './priority.ts';

/**
 * Bounds the work of one transaction; those left over are skipped by the next, and no device of them is offered
 * anything.
 */
const SKIPPED_MAX = 10_000;
const DEVICES_AT_ONCE = 500;

type Search = { rollout: Id; request: OfferRequest; now: number };

/**
 * Planned deployments of the group whose device is let in and owned by no deployment; `runs`: it runs the release
 * already. CROSS: from the few that are planned to their devices, never through the whole fleet.
 */
const candidates = async (
  sql: Sql,
  { rollout, request, now }: Search,
  runs: boolean,
  atMost: number,
): Promise<DeploymentRecord[]> => {
  const { list } = sql.dialect;
  const wanted = (await hasRivalsAbove(sql, rollout)) ? `AND ${wantedByNobodyAbove(sql)}` : '';
  const runsIt = runs
    ? 'running_manifest = :manifest'
    : 'running_manifest IS DISTINCT FROM :manifest AND coalesce(key_shared_at, 0) <= :unsharedSince';
  const rows = await sql.all<DeploymentRow>(
    `SELECT ${deploymentColumns('deployments')} FROM deployments CROSS JOIN devices
     WHERE devices.id = deployments.device AND rollout = :rollout AND wave = :wave AND cohort = :cohort
       AND deployments.compatible = :compatible AND deployments.state = '${SERVER_MOVES.offer.from[0]}'
       AND devices.state = 'accepted' AND devices.deployment IS NULL AND ${runsIt}
       AND coalesce(CAST(attempts ->> 'notBefore' AS BIGINT), 0) <= :now
       AND (:zones IS NULL OR coalesce(attributes ->> 'timezone', '') IN (${list('zones')})) ${wanted}
     ORDER BY online DESC, position LIMIT :atMost`,
    {
      rollout,
      wave: request.wave,
      cohort: request.cohort,
      compatible: request.compatible,
      manifest: request.instruction.sha256,
      unsharedSince: now - SHARED_MS,
      now,
      ...zonesOf(request),
      atMost,
    },
  );
  return rows.map(toDeployment);
};

/** Marks as skipped those that run the release already, and offers it to the next `atMost` of the group. */
export const makeOffer = async (
  sql: Sql,
  search: Search,
): Promise<{ offered: readonly DeploymentRecord[]; skipped: readonly DeploymentRecord[] }> => {
  const { request, now } = search;
  const skipped = await candidates(sql, search, true, SKIPPED_MAX);
  await saveMoved(sql, skip(skipped, now));
  const free = await candidates(sql, search, false, request.atMost);
  const taken = await takeDevices(sql, search, request.atMost - free.length);
  const moved = offer([...free, ...taken], request, now);
  await saveMoved(sql, moved);
  const offered = moved.moves.map(({ next }) => next);
  await giveDevices(sql, offered);
  const zones = await zoneOfEach(sql, offered, request);
  await instruct(
    sql,
    offered.map((deployment) => ({
      device: deployment.device,
      instruction: {
        ...request.instruction,
        deployment: deployment.id,
        ...attemptOf(deployment),
        ...windowsIn(zones?.get(deployment.device), request),
      },
    })),
    now,
  );
  return { offered, skipped };
};

/**
 * Each owns its device from now on. What the device ran until now is kept, and not watched any more: this offer may be
 * the cause of what happens.
 */
const giveDevices = async (sql: Sql, offered: readonly DeploymentRecord[]): Promise<void> => {
  const { list, rows } = sql.dialect;
  for (const batch of inBatches(offered, DEVICES_AT_ONCE)) {
    await sql.run(
      `UPDATE deployments SET ran_before = devices.running FROM devices
       WHERE devices.id = deployments.device AND deployments.id IN (${list('ids')})`,
      { ids: idList(batch.map(({ id }) => id)) },
    );
    await sql.run(
      `UPDATE devices SET deployment = given.deployment, watched = NULL
       FROM ${rows('given', { device: 'text', deployment: 'text' })} WHERE devices.id = given.device`,
      { given: rowList(batch.map(({ id, device }) => ({ device, deployment: id }))) },
    );
  }
};

/**
 * Which attempt this is, from the second on: without it the agent would not begin again what has failed, nor the server
 * know what its reports are about.
 */
const attemptOf = (offered: DeploymentRecord): { attempt?: number } => {
  const offers = offersOf(offered);
  return offers > 1 ? { attempt: offers } : {};
};

/** The time zone that each device reports, '' for none; undefined where the offer has no windows. */
const zoneOfEach = async (
  sql: Sql,
  offered: readonly DeploymentRecord[],
  { zones }: OfferRequest,
): Promise<Map<Id, string> | undefined> => {
  if (zones === undefined) return undefined;
  const found = new Map<Id, string>();
  for (const batch of inBatches(offered, DEVICES_AT_ONCE)) {
    const rows = await sql.all<{ id: Id; zone: string }>(
      `SELECT id, coalesce(attributes ->> 'timezone', '') AS zone FROM devices WHERE id IN (${sql.dialect.list('ids')})`,
      { ids: idList(batch.map(({ device }) => device)) },
    );
    for (const { id, zone } of rows) found.set(id, zone);
  }
  return found;
};

/** In the device's own time zone, which is why only the store can say which. */
const windowsIn = (zone: string | undefined, { zones }: OfferRequest): { windows?: OpenSpan[]; zone?: string } => {
  if (zones === undefined || zone === undefined) return {};
  const windows = zones.find((one) => one.zone === zone)?.windows ?? [];
  return zone === '' ? { windows } : { windows, zone };
};

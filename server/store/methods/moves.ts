/**
 * Saving what the domain moved, and taking devices from the deployments that no longer own them. All within the
 * caller's transaction.
 */
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import {
  giveUp,
  type Moved,
  replan,
  SERVER_MOVES,
  type WithdrawnBy,
  withdraw,
  withdrawPlanned,
} from '#server/domain/deployment/server-moves.ts';
import { inBatches } from '#shared/batches.ts';
import type { Id } from '#shared/ids.ts';
import type { Instruction } from '#shared/messages.ts';
import type { AuditStamp } from '../rollouts.ts';
import { idList, limitOf, rowList, type Sql, type Values } from '../sql.ts';
import { appendEvents } from './audit.ts';
import {
  type DeploymentRow,
  deploymentColumns,
  moveDeployments,
  readDeployments,
  selectDeployments,
  toDeployment,
} from './deployments.ts';
import { instruct, instructAll } from './desired.ts';

const REASON_CHARS_MAX = 256;
const REJECTED = 'device rejected';
const REPLACED = 'device replaced';
/** Deployments that are read at once, where a rollout may have any number. */
const PAGE = 10_000;
const DEVICES_AT_ONCE = 500;

export const saveMoved = async (sql: Sql, { moves, audit }: Moved): Promise<void> => {
  await moveDeployments(sql, moves);
  await appendEvents(sql, audit);
};

/**
 * Frees the devices that these deployments still own, and returns those devices: one may belong to another rollout by
 * now.
 */
export const freeDevices = async (
  sql: Sql,
  deployments: readonly Pick<DeploymentRecord, 'id' | 'device'>[],
): Promise<Id[]> => {
  const freed = new Set<Id>();
  for (const batch of inBatches(deployments, DEVICES_AT_ONCE)) {
    const rows = await sql.all<{ device: Id }>(
      `UPDATE devices SET deployment = NULL FROM ${sql.dialect.rows('owners', { id: 'text', device: 'text' })}
       WHERE devices.id = owners.device AND devices.deployment = owners.id RETURNING devices.id AS device`,
      { owners: rowList(batch.map(({ id, device }) => ({ id, device }))) },
    );
    for (const { device } of rows) freed.add(device);
  }
  return deployments.map(({ device }) => device).filter((device) => freed.has(device));
};

/** Saves that they ended, and tells the devices that they still own to stay as they are. */
const saveEnded = async (sql: Sql, moved: Moved, reason: string, now: number): Promise<void> => {
  await moveDeployments(sql, moved.moves);
  const freed = await freeDevices(
    sql,
    moved.moves.map(({ next }) => next),
  );
  const instruction: Instruction = { kind: 'none', reason: reason.slice(0, REASON_CHARS_MAX) };
  await instructAll(sql, freed, instruction, now);
  await appendEvents(sql, moved.audit);
};

const endDevice = async (
  sql: Sql,
  device: Id,
  from: readonly string[],
  by: WithdrawnBy,
  reason: string,
  now: number,
): Promise<void> => {
  const open = await selectDeployments(
    sql,
    `WHERE device = :device AND state IN (${sql.dialect.list('from')}) ORDER BY n`,
    {
      device,
      from: idList(from),
    },
  );
  await saveEnded(sql, withdraw(open, { by, reason }, now), reason, now);
};

/**
 * Ends everything that a device is part of when no report of it counts any more: planned deployments would never be
 * offered, trials never decided, and their rollouts never completed.
 */
export const withdrawDevice = (sql: Sql, device: Id, now: number): Promise<void> =>
  endDevice(sql, device, SERVER_MOVES['shut out'].from, 'rejection', REJECTED, now);

/**
 * What the device before it was on the way to ends with it. What is planned stays for the device that takes its place,
 * unless that is other hardware: their releases have other bundles for it.
 */
export const withdrawReplaced = async (sql: Sql, device: Id, isOtherHardware: boolean, now: number): Promise<void> => {
  if (isOtherHardware)
    await sql.run(
      "UPDATE deployments SET withdrawn_by = 'replacement' WHERE device = :device AND withdrawn_by = 'halt'",
      { device },
    );
  const { replace, 'shut out': shutOut } = SERVER_MOVES;
  await endDevice(sql, device, (isOtherHardware ? shutOut : replace).from, 'replacement', REPLACED, now);
  // A deployment that ended before still has its instruction, which the newcomer would take for its own.
  const told = await sql.get("SELECT 1 FROM desired WHERE device = :device AND instruction ->> 'kind' <> 'none'", {
    device,
  });
  if (told !== undefined) await instruct(sql, [{ device, instruction: { kind: 'none', reason: REPLACED } }], now);
};

const selectWithDevices = async (sql: Sql, rest: string, values: Values): Promise<DeploymentRecord[]> => {
  const rows = await sql.all<DeploymentRow>(
    `SELECT ${deploymentColumns('deployments')} FROM deployments JOIN devices ON devices.id = deployments.device ${rest}`,
    values,
  );
  return rows.map(toDeployment);
};

/** The same for those of a new rollout's devices that were shut out while it was planned. */
export const withdrawShutOut = async (sql: Sql, rollout: Id, now: number): Promise<void> => {
  const shutOut = await selectWithDevices(
    sql,
    `WHERE rollout = :rollout AND deployments.state = 'planned' AND devices.state = 'rejected' ORDER BY deployments.n`,
    { rollout },
  );
  await saveMoved(sql, withdraw(shutOut, { by: 'rejection', reason: REJECTED }, now));
};

/** Takes back every offer that the device has not acted on for good: up to `ready`. A trial is left to finish. */
export const withdrawOffers = async (
  sql: Sql,
  rollout: Id,
  { reason, planned }: { reason: string; planned: boolean },
  now: number,
): Promise<readonly DeploymentRecord[]> => {
  const offered = await selectDeployments(
    sql,
    `WHERE rollout = :rollout AND state IN (${sql.dialect.list('from')}) ORDER BY n`,
    { rollout, from: idList(SERVER_MOVES.withdraw.from) },
  );
  await saveEnded(sql, withdraw(offered, { by: planned ? 'abort' : 'halt', reason }, now), reason, now);
  if (planned) await endPlanned(sql, rollout, now);
  return offered;
};

const endPlanned = async (sql: Sql, rollout: Id, now: number): Promise<void> => {
  for (;;) {
    const left = await selectDeployments(
      sql,
      "WHERE rollout = :rollout AND state = 'planned' ORDER BY n LIMIT :limit",
      { rollout, limit: PAGE },
    );
    await saveMoved(sql, withdrawPlanned(left, now));
    if (left.length < PAGE) return;
  }
};

/** Plans again what a halt withdrew of devices that are let in. */
export const replanHalted = async (sql: Sql, rollout: Id, now: number): Promise<void> => {
  const halted = await selectWithDevices(
    sql,
    `WHERE rollout = :rollout AND deployments.state = 'withdrawn' AND withdrawn_by = 'halt' AND devices.state = 'accepted'
     ORDER BY deployments.n`,
    { rollout },
  );
  await saveMoved(sql, replan(halted, now));
};

/**
 * Gives up what is past its deadline. The device is freed and told to stay as it is, a silent one too: otherwise a
 * device that stays silent could never be given anything again, and two rollouts may never own one. A trial that
 * finishes after all is not disturbed by that, and its late report reclassifies the deployment.
 */
export const giveUpOverdue = async (
  sql: Sql,
  rollout: Id,
  now: number,
  limit: number,
  { by }: AuditStamp,
): Promise<DeploymentRecord[]> => {
  const rows = await sql.all<DeploymentRow & { online: number; lastSeenAt: number | null }>(
    `SELECT ${deploymentColumns('deployments')}, online, last_seen_at AS "lastSeenAt" FROM deployments CROSS JOIN devices
     WHERE devices.id = deployments.device AND rollout = :rollout AND deadline_at <= :now
     ORDER BY deadline_at, deployments.n LIMIT :limit`,
    { rollout, now, limit: limitOf(limit) },
  );
  const late = rows.map((row) => ({
    deployment: toDeployment(row),
    heard: { online: row.online === 1, lastSeenAt: row.lastSeenAt },
  }));
  for (const { reason, ...moved } of giveUp(late, by, now)) await saveEnded(sql, moved, reason, now);
  return readDeployments(
    sql,
    rows.map(({ id }) => id),
  );
};

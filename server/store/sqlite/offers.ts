/** What a decision about a rollout does to devices: offers, withdrawals and deadlines. All within the caller's transaction. */

import { type AuditEvent, auditLine, BY_SERVER } from '#server/domain/audit.ts';
import { HEARD_WITHIN_MS } from '#server/domain/deployment/deadline.ts';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { SHARED_MS } from '#server/domain/device/boots.ts';
import type { DeploymentState, OverdueClass } from '#shared/deployment.ts';
import type { Id } from '#shared/ids.ts';
import type { Instruction } from '#shared/messages.ts';
import type { OpenSpan } from '#shared/windows.ts';
import type { AuditStamp, OfferRequest } from '../rollouts.ts';
import { appendAudit } from './audit.ts';
import { readDeployments } from './deployments.ts';
import { inBatches, instruct } from './desired.ts';
import { hasRivalsAbove, takeOver, wantedByNobodyAbove, zonesOf } from './priority.ts';
import { limitOf, type Sql } from './sql.ts';

type Journey = { id: Id; device: Id };
/** Bounds the work of one transaction; whoever is left over is skipped by the next, and offered to by none. */
const SKIPPED_MAX = 10_000;
const REASON_CHARS_MAX = 256;
const REJECTED = 'device rejected';
const REPLACED = 'device replaced';

const recordJourneys = (sql: Sql, journeys: readonly Journey[], event: (devices: Id[]) => AuditEvent): void =>
  appendAudit(
    sql,
    inBatches(journeys).map((batch) => auditLine(event(batch.map(({ device }) => device)))),
  );

/**
 * Planned deployments of the group whose device is let in and owned by nobody; `runs` says whether it runs the release
 * already. CROSS: from the few that are planned to their devices, never through the whole fleet.
 */
const candidates = (
  sql: Sql,
  rollout: Id,
  offer: OfferRequest,
  runs: boolean,
  atMost: number,
  now: number,
): Journey[] => {
  const wanted = hasRivalsAbove(sql, rollout)
    ? wantedByNobodyAbove(offer.shutAbove)
    : { sql: '? IS NOT NULL', value: '' };
  return sql.all<Journey>(
    `SELECT deployments.id, device FROM deployments CROSS JOIN devices ON devices.id = device
     WHERE rollout = ? AND wave = ? AND cohort = ? AND deployments.compatible = ? AND deployments.state = 'planned'
       AND devices.state = 'accepted' AND devices.deployment IS NULL AND (running_manifest IS ?) = ?
       AND (? OR ifnull(key_shared_at, 0) <= ?)
       AND ifnull(attempts ->> 'notBefore', 0) <= ?
       AND (? IS NULL OR ifnull(attributes ->> '$.timezone', '') IN (SELECT value FROM json_each(?)))
       AND ${wanted.sql}
     ORDER BY online DESC, position LIMIT ?`,
    rollout,
    offer.wave,
    offer.cohort,
    offer.compatible,
    offer.instruction.sha256,
    runs ? 1 : 0,
    runs ? 1 : 0,
    now - SHARED_MS,
    now,
    zonesOf(offer),
    zonesOf(offer),
    wanted.value,
    atMost,
  );
};

/** Which attempt this is, from the second on: without it the agent would not begin again what has failed, nor the server know what its words are about. */
const attemptOf = (sql: Sql, deployment: Id): { attempt?: number } => {
  const offers = sql.get<{ offers: number }>('SELECT offers FROM deployments WHERE id = ?', deployment)?.offers ?? 1;
  return offers > 1 ? { attempt: offers } : {};
};

/** Marks as skipped who runs the release already, and offers it to the next `atMost` of the group. */
export const makeOffer = (
  sql: Sql,
  rollout: Id,
  offer: OfferRequest,
  now: number,
): { offered: Journey[]; skipped: Journey[] } => {
  const skipped = candidates(sql, rollout, offer, true, SKIPPED_MAX, now);
  for (const { id } of skipped)
    sql.run(
      "UPDATE deployments SET state = 'skipped', state_at = ?, decided_at = ?, revision = revision + 1 WHERE id = ?",
      now,
      now,
      id,
    );
  const free = candidates(sql, rollout, offer, false, offer.atMost, now);
  const offered = [...free, ...takeOver(sql, rollout, offer, offer.atMost - free.length, now)];
  for (const { id, device } of offered) {
    sql.run(
      `UPDATE deployments SET state = 'offered', state_at = ?, offered_at = ?, accepted_at = NULL, deadline_at = ?, offers = offers + 1,
         ran_before = (SELECT running FROM devices WHERE devices.id = deployments.device),
         revision = revision + 1 WHERE id = ?`,
      now,
      now,
      offer.acceptBy,
      id,
    );
    // Whatever it ran before is not watched any more: from here on this offer may be the cause of what happens.
    sql.run('UPDATE devices SET deployment = ?, watched = NULL WHERE id = ?', id, device);
  }
  instruct(
    sql,
    offered.map(({ id, device }) => ({
      device,
      instruction: { ...offer.instruction, deployment: id, ...attemptOf(sql, id), ...windowsOf(sql, device, offer) },
    })),
    now,
  );
  const by = BY_SERVER;
  recordJourneys(sql, skipped, (devices) => ({ at: now, by, kind: 'skipped', rollout, devices }));
  recordJourneys(sql, offered, (devices) => ({
    at: now,
    by,
    kind: 'offered',
    rollout,
    wave: offer.wave,
    devices,
    ...decisionOf(offer),
  }));
  return { offered, skipped };
};

const decisionOf = ({ decision }: OfferRequest): Pick<OfferRequest, 'decision'> =>
  decision === undefined ? {} : { decision };

/** In the device's own time zone, which is why only the store can say which. */
const windowsOf = (sql: Sql, device: Id, { zones }: OfferRequest): { windows?: OpenSpan[]; zone?: string } => {
  if (zones === undefined) return {};
  const row = sql.get<{ zone: string }>(
    "SELECT ifnull(attributes ->> '$.timezone', '') AS zone FROM devices WHERE id = ?",
    device,
  );
  const windows = zones.find(({ zone }) => zone === row?.zone)?.windows ?? [];
  return row === undefined || row.zone === '' ? { windows } : { windows, zone: row.zone };
};

/** Frees the devices that these deployments still own, and supersedes what they were told by "stay as you are". */
const release = (sql: Sql, journeys: readonly Journey[], reason: string, now: number): void => {
  // Only where the deployment still owns the device: otherwise the document belongs to another rollout by now.
  const owned = journeys.filter(
    ({ id, device }) => sql.run('UPDATE devices SET deployment = NULL WHERE id = ? AND deployment = ?', device, id) > 0,
  );
  const instruction: Instruction = { kind: 'none', reason: reason.slice(0, REASON_CHARS_MAX) };
  instruct(
    sql,
    owned.map(({ device }) => ({ device, instruction })),
    now,
  );
};

/** Who withdrew; only a halt can be resumed. Kept until somebody else moves the deployment. */
type WithdrawnBy = 'halt' | 'abort' | 'rejection' | 'replacement';

const withdrawEach = (sql: Sql, journeys: readonly Journey[], by: WithdrawnBy, now: number): void => {
  for (const { id } of journeys)
    sql.run(
      `UPDATE deployments SET state = 'withdrawn', withdrawn_by = ?, reached = state, state_at = ?, decided_at = ?, deadline_at = NULL,
         held_until = NULL, revision = revision + 1 WHERE id = ?`,
      by,
      now,
      now,
      id,
    );
};

/**
 * Plans again what a halt withdrew. When it was offered and accepted is kept until the next offer: a device that had
 * activated all the same may still say so, and one that had begun to fetch was not untouched.
 */
export const replanHalted = (sql: Sql, rollout: Id, now: number): void => {
  const journeys = sql.all<Journey>(
    `SELECT deployments.id, device FROM deployments JOIN devices ON devices.id = device
     WHERE rollout = ? AND deployments.state = 'withdrawn' AND withdrawn_by = 'halt' AND devices.state = 'accepted'
     ORDER BY deployments.n`,
    rollout,
  );
  for (const { id } of journeys)
    sql.run(
      `UPDATE deployments SET state = 'planned', withdrawn_by = NULL, state_at = ?, decided_at = NULL,
         revision = revision + 1 WHERE id = ?`,
      now,
      id,
    );
  recordJourneys(sql, journeys, (devices) => ({ at: now, by: BY_SERVER, kind: 'replanned', rollout, devices }));
};

/** Ends these journeys of one device, of whatever rollouts. */
const withdrawJourneys = (
  sql: Sql,
  journeys: readonly (Journey & { rollout: Id })[],
  by: WithdrawnBy,
  reason: string,
  now: number,
): void => {
  withdrawEach(sql, journeys, by, now);
  release(sql, journeys, reason, now);
  for (const { rollout, ...journey } of journeys)
    recordJourneys(sql, [journey], (devices) => ({
      at: now,
      by: BY_SERVER,
      kind: 'withdrawn',
      rollout,
      devices,
      reason,
    }));
};

/**
 * Ends every journey of a device that nobody hears any more: planned ones would never be offered, trials never decided,
 * and their rollouts never completed.
 */
export const withdrawDevice = (sql: Sql, device: Id, now: number): void => {
  const journeys = sql.all<Journey & { rollout: Id }>(
    `SELECT id, device, rollout FROM deployments
     WHERE device = ? AND state IN ('planned', 'offered', 'fetching', 'installing', 'ready', 'trial') ORDER BY n`,
    device,
  );
  withdrawJourneys(sql, journeys, 'rejection', REJECTED, now);
};

/**
 * What the device before it was on the way to ends with it. Planned journeys are for whoever holds the post, unless it is
 * other hardware now: their releases have other bundles for that.
 */
export const withdrawReplaced = (sql: Sql, device: Id, isOtherHardware: boolean, now: number): void => {
  if (isOtherHardware)
    sql.run("UPDATE deployments SET withdrawn_by = 'replacement' WHERE device = ? AND withdrawn_by = 'halt'", device);
  const journeys = sql.all<Journey & { rollout: Id }>(
    `SELECT id, device, rollout FROM deployments
     WHERE device = ? AND (state IN ('offered', 'fetching', 'installing', 'ready', 'trial') OR (? AND state = 'planned'))
     ORDER BY n`,
    device,
    isOtherHardware ? 1 : 0,
  );
  withdrawJourneys(sql, journeys, 'replacement', REPLACED, now);
  // A finished journey still has its instruction, which the newcomer would take for its own.
  const told = sql.get("SELECT 1 FROM desired WHERE device = ? AND instruction ->> 'kind' <> 'none'", device);
  if (told !== undefined) instruct(sql, [{ device, instruction: { kind: 'none', reason: REPLACED } }], now);
};

/** The same for those of a new rollout's devices that were shut out while it was planned. */
export const withdrawShutOut = (sql: Sql, rollout: Id, now: number): void => {
  const journeys = sql.all<Journey>(
    `SELECT deployments.id, device FROM deployments JOIN devices ON devices.id = device
     WHERE rollout = ? AND deployments.state = 'planned' AND devices.state = 'rejected' ORDER BY deployments.n`,
    rollout,
  );
  withdrawEach(sql, journeys, 'rejection', now);
  recordJourneys(sql, journeys, (devices) => ({
    at: now,
    by: BY_SERVER,
    kind: 'withdrawn',
    rollout,
    devices,
    reason: REJECTED,
  }));
};

/** Takes back every offer that the device has not acted on for good: up to `ready`. A trial is left to finish. */
export const withdrawOffers = (
  sql: Sql,
  rollout: Id,
  withdraw: { reason: string; planned: boolean },
  now: number,
): Journey[] => {
  const journeys = sql.all<Journey>(
    `SELECT id, device FROM deployments
     WHERE rollout = ? AND state IN ('offered', 'fetching', 'installing', 'ready') ORDER BY n`,
    rollout,
  );
  withdrawEach(sql, journeys, withdraw.planned ? 'abort' : 'halt', now);
  release(sql, journeys, withdraw.reason, now);
  const { reason } = withdraw;
  recordJourneys(sql, journeys, (devices) => ({ at: now, by: BY_SERVER, kind: 'withdrawn', rollout, devices, reason }));
  // No device knows of these, so none is told and none is named in the log.
  if (withdraw.planned)
    sql.run(
      `UPDATE deployments SET state = 'withdrawn', state_at = ?, decided_at = ?, revision = revision + 1
       WHERE rollout = ? AND state = 'planned'`,
      now,
      now,
      rollout,
    );
  return journeys;
};

/**
 * Marks what is past its deadline as overdue. Its device is freed and told to stay as it is, a silent one too: otherwise
 * a device that stays silent could never be given anything again, and two rollouts may never own one. A trial that
 * finishes after all is not disturbed by that, and its late report reclassifies the deployment.
 */
export const markOverdue = (
  sql: Sql,
  rollout: Id,
  now: number,
  limit: number,
  stamp: AuditStamp,
): DeploymentRecord[] => {
  const due = sql.all<Journey & { overdue: OverdueClass; reached: DeploymentState }>(
    `SELECT deployments.id, device, deployments.state AS reached, CASE
         WHEN accepted_at IS NULL THEN 'never-heard'
         WHEN online AND last_seen_at > state_at AND last_seen_at >= ? THEN 'stuck'
         ELSE 'silent'
       END AS overdue
     FROM deployments CROSS JOIN devices ON devices.id = device
     WHERE rollout = ? AND deadline_at <= ? ORDER BY deadline_at, deployments.n LIMIT ?`,
    now - HEARD_WITHIN_MS,
    rollout,
    now,
    limitOf(limit),
  );
  for (const { id, overdue } of due)
    sql.run(
      `UPDATE deployments SET state = 'overdue', overdue = ?, reached = state, state_at = ?, decided_at = ?,
         deadline_at = NULL, held_until = NULL, revision = revision + 1 WHERE id = ?`,
      overdue,
      now,
      now,
      id,
    );
  for (const [alike, journeys] of Map.groupBy(due, ({ overdue, reached }) => `${overdue} in ${reached}`)) {
    const { overdue, reached } = journeys[0]!;
    release(sql, journeys, `overdue: ${alike}`, now);
    recordJourneys(sql, journeys, (devices) => ({
      at: now,
      by: stamp.by,
      kind: 'overdue',
      rollout,
      class: overdue,
      reached,
      devices,
    }));
  }
  return readDeployments(
    sql,
    due.map(({ id }) => id),
  );
};

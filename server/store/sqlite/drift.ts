/**
 * Devices that run what nobody told them to run. What a device should run is what it last committed or reverted to, or was
 * adopted; before any of these, what it ran when it was first heard.
 */
import { auditLine, byDevice } from '#server/domain/audit.ts';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { Running } from '#shared/deployment.ts';
import { type Id, releaseRef } from '#shared/ids.ts';
import type { DriftRecord } from '../devices.ts';
import { appendAudit } from './audit.ts';
import { fromJson, limitOf, type Sql, toJson } from './sql.ts';
import type { SyncStore } from './sync.ts';

/** A device that drifts to and fro must not fill the log. */
const TOLD_EVERY_MS = 3_600_000;

/** While a deployment owns the device it runs what that says, or is on its way there. */
const DRIFTS = `(deployment IS NULL AND ifnull(running_manifest <> expected ->> 'manifest', 0))`;
/**
 * So it is with one that runs what the server gave it and has given up since (overdue, withdrawn), on trial by its own word: it was
 * told to, and its outcome is still to come. Asked only of those on trial: joins are costly for every heartbeat.
 */
const isExcused = (sql: Sql, device: Id, trialOf: Id | null): boolean =>
  trialOf !== null &&
  sql.get(
    `SELECT 1 FROM deployments AS given JOIN devices ON devices.id = device JOIN rollouts ON rollouts.id = rollout
       JOIN bundles ON product = plan ->> 'product' AND version = plan ->> 'version' AND bundles.compatible = given.compatible
     WHERE given.id = ? AND device = ? AND offered_at IS NOT NULL AND manifest_sha256 = running_manifest
       AND given.state NOT IN ('committed', 'reverted', 'failed', 'skipped')`,
    trialOf,
    device,
  ) !== undefined;
/** One that was not told within the hour goes on. Takes the time an hour ago. */
const UNTOLD = '(drifted_at > drift_told_at AND drift_told_at <= ?)';

const named = (text: string): string => {
  const { product, version } = fromJson<Running>(text);
  return releaseRef(product, version);
};

type Changed = {
  expected: string | null;
  running: string;
  driftedAt: number | null;
  toldAt: number | null;
  deployment: Id | null;
  drifts: number;
};

/** After every word of the device about what it runs. `trialOf`: the deployment that it is on trial of, by that word. */
export const noteDrift = (sql: Sql, device: Id, at: number, trialOf: Id | null): void => {
  const drifts = isExcused(sql, device, trialOf) ? '0' : DRIFTS;
  const changed = sql.get<Changed>(
    `SELECT expected, running, drifted_at AS driftedAt, drift_told_at AS toldAt, deployment, ${drifts} AS drifts FROM devices
     WHERE id = ? AND running IS NOT NULL AND (expected IS NULL OR ${drifts} <> (drifted_at IS NOT NULL) OR ${UNTOLD})`,
    device,
    at - TOLD_EVERY_MS,
  );
  if (changed === undefined) return;
  const { expected, driftedAt, toldAt } = changed;
  sql.run(
    'UPDATE devices SET drifted_at = ?, expected = ifnull(expected, running) WHERE id = ?',
    changed.drifts === 1 ? (driftedAt ?? at) : null,
    device,
  );
  if (expected === null) return;
  const running = named(changed.running);
  const by = byDevice(device);
  if (changed.drifts === 0) {
    // Only of one that was told.
    if (driftedAt === null || toldAt === null || toldAt < driftedAt) return;
    const deployment = changed.deployment ?? trialOf;
    const back = running === named(expected);
    appendAudit(sql, [
      auditLine({ at, by, kind: 'drift-ended', device, running, deployment: back ? null : deployment }),
    ]);
    return;
  }
  if (toldAt !== null && toldAt > at - TOLD_EVERY_MS && toldAt <= at) return;
  sql.run('UPDATE devices SET drift_told_at = ? WHERE id = ?', at, device);
  appendAudit(sql, [auditLine({ at, by, kind: 'device-drifted', device, expected: named(expected), running })]);
};

/** The outcome of a deployment is what the device was told to run, also where that was to go back. */
export const expectOutcome = (sql: Sql, { device, state }: DeploymentRecord, running: Running | null): void => {
  if (running !== null && (state === 'committed' || state === 'reverted'))
    sql.run('UPDATE devices SET expected = ? WHERE id = ?', toJson(running), device);
};

type DriftRow = { device: Id; expected: string; running: string; since: number; online: number };
const toDrift = (row: DriftRow): DriftRecord => ({
  ...row,
  expected: fromJson<Running>(row.expected),
  running: fromJson<Running>(row.running),
  online: row.online === 1,
});
/** Who says that it runs nothing has nothing that could be adopted. */
const IS_DRIFTED = "drifted_at IS NOT NULL AND running IS NOT NULL AND state = 'accepted'";
const DRIFTED = `SELECT id AS device, expected, running, drifted_at AS since, online FROM devices WHERE ${IS_DRIFTED}`;

export const drift = (sql: Sql) =>
  ({
    listDrifted: (page) =>
      sql
        .all<DriftRow>(`${DRIFTED} AND id > ? ORDER BY id LIMIT ?`, page.after ?? '', limitOf(page.limit))
        .map(toDrift),
    getDrift: (device) => {
      const row = sql.get<DriftRow>(`${DRIFTED} AND id = ?`, device);
      return row && toDrift(row);
    },
    countDrifted: () =>
      sql.get<{ devices: number }>(`SELECT count(*) AS devices FROM devices WHERE ${IS_DRIFTED}`)?.devices ?? 0,
    adoptRunning: (device, manifest, audit) => {
      const adopted = sql.run(
        `UPDATE devices SET expected = running, drifted_at = NULL
         WHERE id = ? AND drifted_at IS NOT NULL AND running_manifest = ?`,
        device,
        manifest,
      );
      if (adopted === 0) return 'conflict';
      appendAudit(sql, [audit]);
      return 'adopted';
    },
  }) satisfies Partial<SyncStore>;

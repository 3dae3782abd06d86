/**
 * Devices that run what nobody told them to run. What a device should run is what it last committed or reverted to, or was
 * adopted; before any of these, what it ran when it was first heard.
 */
import { auditLine, byDevice } from '#server/domain/audit.ts';
import type { Running } from '#shared/deployment.ts';
import { type Id, releaseRef } from '#shared/ids.ts';
import type { DeploymentRecord, DriftRecord } from '../store.ts';
import { appendAudit } from './audit.ts';
import { fromJson, limitOf, type Sql, toJson } from './sql.ts';
import type { SyncStore } from './sync.ts';

/** A device that drifts to and fro must not fill the log. */
const TOLD_EVERY_MS = 3_600_000;

/** While a deployment owns the device it runs what that says, or is on its way there. */
const DRIFTS = `(deployment IS NULL AND ifnull(running_manifest <> expected ->> 'manifest', 0))`;

/** After every word of the device about what it runs. */
export const noteDrift = (sql: Sql, device: Id, at: number): void => {
  const changed = sql.get<{ expected: string; running: string; driftedAt: number | null; toldAt: number | null }>(
    `UPDATE devices SET drifted_at = iif(${DRIFTS}, ?, NULL), expected = ifnull(expected, running)
     WHERE id = ? AND running IS NOT NULL AND (expected IS NULL OR ${DRIFTS} <> (drifted_at IS NOT NULL))
     RETURNING expected, running, drifted_at AS driftedAt, drift_told_at AS toldAt`,
    at,
    device,
  );
  if (changed === undefined || changed.driftedAt === null) return;
  if (changed.toldAt !== null && changed.toldAt > at - TOLD_EVERY_MS && changed.toldAt <= at) return;
  sql.run('UPDATE devices SET drift_told_at = ? WHERE id = ?', at, device);
  const named = (text: string): string => {
    const { product, version } = fromJson<Running>(text);
    return releaseRef(product, version);
  };
  appendAudit(sql, [
    auditLine({
      at,
      by: byDevice(device),
      kind: 'device-drifted',
      device,
      expected: named(changed.expected),
      running: named(changed.running),
    }),
  ]);
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
const DRIFTED = `SELECT id AS device, expected, running, drifted_at AS since, online FROM devices
  WHERE drifted_at IS NOT NULL AND state = 'accepted'`;

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
      sql.get<{ devices: number }>(
        "SELECT count(*) AS devices FROM devices WHERE drifted_at IS NOT NULL AND state = 'accepted'",
      )?.devices ?? 0,
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

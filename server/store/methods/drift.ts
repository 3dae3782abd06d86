/** Devices that drift (domain/device/drift.ts): which may, and what became of it. */
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { type Drifting, stepDrift, type Trial } from '#server/domain/device/drift.ts';
import type { Running } from '#shared/deployment.ts';
import type { Id, Sha256 } from '#shared/ids.ts';
import type { DriftRecord } from '../devices.ts';
import { fromJson, idList, limitOf, rowList, type Sql } from '../sql.ts';
import { appendAudit, appendEvents } from './audit.ts';
import type { Methods } from './methods.ts';

/** A device has said what it runs. `trialOf`: the deployment that it is on trial of, by the same report. */
export type RunsNow = { device: Id; at: number; trialOf?: Id | undefined };

type Row = Omit<Drifting, 'running' | 'expected'> & { running: string; expected: string | null };
/** Not those that run what they should and did before: nearly all. */
const selectDrifting = async (sql: Sql, devices: readonly Id[]): Promise<Drifting[]> => {
  const rows = await sql.all<Row>(
    `SELECT id AS device, running, expected, drifted_at AS "driftedAt", drift_told_at AS "toldAt", deployment FROM devices
     WHERE id IN (${sql.dialect.list('devices')}) AND running IS NOT NULL
       AND (expected IS NULL OR drifted_at IS NOT NULL OR running_manifest <> expected ->> 'manifest')`,
    { devices: idList(devices) },
  );
  return rows.map((row) => ({
    ...row,
    running: fromJson<Running>(row.running),
    expected: row.expected === null ? null : fromJson<Running>(row.expected),
  }));
};

type TrialRow = Trial & { device: Id };
/** The trials of these devices; only of the few that may drift, since the joins are costly. */
const selectTrials = async (sql: Sql, ids: readonly Id[]): Promise<Map<Id, TrialRow>> => {
  if (ids.length === 0) return new Map();
  const rows = await sql.all<TrialRow & { manifest: Sha256 | null }>(
    `SELECT given.id, given.device, given.state, given.offered_at AS "offeredAt", manifest_sha256 AS manifest
     FROM deployments AS given JOIN rollouts ON rollouts.id = given.rollout
       LEFT JOIN bundles ON product = plan ->> 'product' AND version = plan ->> 'version'
         AND bundles.compatible = given.compatible
     WHERE given.id IN (${sql.dialect.list('ids')})`,
    { ids: idList(ids) },
  );
  return new Map(rows.map((row) => [row.id, row]));
};

/** After reports of what devices run, each device once. Within the caller's transaction. */
export const noteDrift = async (sql: Sql, reports: readonly RunsNow[]): Promise<void> => {
  if (reports.length === 0) return;
  const drifting = await selectDrifting(
    sql,
    reports.map(({ device }) => device),
  );
  if (drifting.length === 0) return;
  const known = new Map(drifting.map((one) => [one.device, one]));
  const asked = reports.filter(({ device }) => known.has(device));
  const trials = await selectTrials(
    sql,
    asked.flatMap(({ trialOf }) => trialOf ?? []),
  );
  const steps = asked.flatMap(({ device, at, trialOf }) => {
    const trial = trialOf === undefined ? undefined : trials.get(trialOf);
    return stepDrift(known.get(device)!, trial?.device === device ? trial : undefined, at) ?? [];
  });
  if (steps.length === 0) return;
  await sql.run(
    `UPDATE devices SET expected = stepped.expects, drifted_at = stepped.drifts_since, drift_told_at = stepped.told_at
     FROM ${sql.dialect.rows('stepped', { device: 'text', expects: 'json', drifts_since: 'integer', told_at: 'integer' })}
     WHERE devices.id = stepped.device`,
    {
      stepped: rowList(
        steps.map(({ next }) => ({
          device: next.device,
          expects: next.expected,
          drifts_since: next.driftedAt,
          told_at: next.toldAt,
        })),
      ),
    },
  );
  await appendEvents(
    sql,
    steps.flatMap(({ audit }) => audit),
  );
};

/** The outcome of a deployment is what the device was told to run, also where that was to go back. */
export const expectOutcomes = async (
  sql: Sql,
  moved: readonly { next: DeploymentRecord; running: Running | null }[],
): Promise<void> => {
  const outcomes = moved.filter(
    ({ next, running }) => running !== null && (next.state === 'committed' || next.state === 'reverted'),
  );
  if (outcomes.length === 0) return;
  await sql.run(
    `UPDATE devices SET expected = outcomes.running
     FROM ${sql.dialect.rows('outcomes', { device: 'text', running: 'json' })} WHERE devices.id = outcomes.device`,
    { outcomes: rowList(outcomes.map(({ next, running }) => ({ device: next.device, running }))) },
  );
};

type DriftRow = { device: Id; expected: string; running: string; since: number; online: number };
const toDrift = (row: DriftRow): DriftRecord => ({
  ...row,
  expected: fromJson<Running>(row.expected),
  running: fromJson<Running>(row.running),
  online: row.online === 1,
});
/** A device that says that it runs nothing has nothing that could be adopted. */
const IS_DRIFTED = "drifted_at IS NOT NULL AND running IS NOT NULL AND state = 'accepted'";
const DRIFTED = `SELECT id AS device, expected, running, drifted_at AS since, online FROM devices WHERE ${IS_DRIFTED}`;

export const drift = {
  listDrifted: async (sql, page) => {
    const rows = await sql.all<DriftRow>(`${DRIFTED} AND id > :after ORDER BY id LIMIT :limit`, {
      after: page.after ?? '',
      limit: limitOf(page.limit),
    });
    return rows.map(toDrift);
  },
  getDrift: async (sql, device) => {
    const row = await sql.get<DriftRow>(`${DRIFTED} AND id = :device`, { device });
    return row && toDrift(row);
  },
  countDrifted: async (sql) => {
    const row = await sql.get<{ devices: number }>(`SELECT count(*) AS devices FROM devices WHERE ${IS_DRIFTED}`);
    return row?.devices ?? 0;
  },
  adoptRunning: async (sql, device, manifest, audit) => {
    const adopted = await sql.run(
      `UPDATE devices SET expected = running, drifted_at = NULL
       WHERE id = :device AND drifted_at IS NOT NULL AND running_manifest = :manifest`,
      { device, manifest },
    );
    if (adopted === 0) return 'conflict';
    await appendAudit(sql, [audit]);
    return 'adopted';
  },
} satisfies Partial<Methods>;

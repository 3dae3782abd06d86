/** What devices report, in batches: the hottest writes of the server. */
import { type DeploymentRecord, owns } from '#server/domain/deployment/deployment.ts';
import { inBatches } from '#shared/batches.ts';
import type { Id } from '#shared/ids.ts';
import type { HeartbeatRow, ReportRow } from '../ingest.ts';
import { type ColumnType, idList, rowList, type Sql } from '../sql.ts';
import { appendAudit } from './audit.ts';
import { moveDeployments } from './deployments.ts';
import { instruct } from './desired.ts';
import { expectOutcomes, noteDrift } from './drift.ts';
import type { Methods } from './methods.ts';
import { freeDevices } from './moves.ts';
import { wakeRecalled } from './recalls.ts';
import { watchCommitted } from './watch.ts';

/** How far back a server's clock may be set before the times it wrote earlier stop counting as newer. */
const CLOCK_SET_BACK_MS = 60_000;
/** Devices that one statement writes. */
const DEVICES_AT_ONCE = 500;

/** Statements over sets write each device once: what comes of one device again waits for the next round. */
const inRounds = <T extends { device: Id }>(rows: readonly T[]): T[][] => {
  const rounds: T[][] = [];
  const seen = new Map<Id, number>();
  for (const row of rows) {
    const round = seen.get(row.device) ?? 0;
    seen.set(row.device, round + 1);
    (rounds[round] ??= []).push(row);
  }
  return rounds.flatMap((round) => inBatches(round, DEVICES_AT_ONCE));
};

/** A heartbeat waits in a batch longer than a report does, so it may arrive after what overtook it. */
const saveHeartbeats = async (sql: Sql, heartbeats: readonly HeartbeatRow[]): Promise<void> => {
  const beats = sql.dialect.rows('beat', {
    device: 'text',
    boot: 'text',
    at: 'integer',
    running: 'json',
    well: 'integer',
  });
  const saved = await sql.all<{ device: Id }>(
    `UPDATE devices SET boot = beat.boot, running = beat.running, healthy = beat.well, last_seen_at = beat.at,
       unhealthy_since = CASE WHEN beat.well = 1 THEN NULL ELSE coalesce(unhealthy_since, beat.at) END,
       restarts = restarts + CASE WHEN watched IS NOT NULL
         AND ((beat.well = 0 AND unhealthy_since IS NULL) OR heard_boot <> beat.boot) THEN 1 ELSE 0 END,
       heard_boot = beat.boot
     FROM ${beats}
     WHERE devices.id = beat.device
       AND (last_seen_at IS NULL OR last_seen_at <= beat.at OR last_seen_at > beat.at + ${CLOCK_SET_BACK_MS})
     RETURNING devices.id AS device`,
    { beat: rowList(heartbeats.map(({ healthy, ...beat }) => ({ ...beat, well: healthy ? 1 : 0 }))) },
  );
  const told = new Set(saved.map(({ device }) => device));
  await noteDrift(
    sql,
    heartbeats.filter(({ device }) => told.has(device)),
  );
};

type Known = { id: Id; reportSeq: number; publicKey: string };
type Revision = { id: Id; device: Id; revision: number };

/** The deployments of a report that moved since they were read. */
const conflictsOf = (report: ReportRow, revisions: ReadonlyMap<Id, Revision>): Id[] =>
  report.deployments.flatMap(({ id, revision }) => {
    const stored = revisions.get(id);
    if (stored !== undefined && stored.device !== report.device)
      throw new Error(`a report of ${report.device} would move deployment ${id} of ${stored.device}`);
    return stored?.revision === revision ? [] : [id];
  });

/**
 * Those that count: not seen before, and not under a key that the device has no more, behind whose receipts could never
 * be verified.
 */
const newOf = async (sql: Sql, reports: readonly ReportRow[]): Promise<ReportRow[]> => {
  const rows = await sql.all<Known>(
    `SELECT id, report_seq AS "reportSeq", public_key AS "publicKey" FROM devices
     WHERE id IN (${sql.dialect.list('devices')})`,
    { devices: idList(reports.map(({ device }) => device)) },
  );
  const known = new Map(rows.map((row) => [row.id, row]));
  return reports.filter(({ device, seq, publicKey }) => {
    const before = known.get(device);
    return before !== undefined && seq > before.reportSeq && publicKey === before.publicKey;
  });
};

const revisionsOf = async (sql: Sql, reports: readonly ReportRow[]): Promise<Map<Id, Revision>> => {
  const ids = reports.flatMap(({ deployments }) => deployments.map(({ id }) => id));
  if (ids.length === 0) return new Map();
  const rows = await sql.all<Revision>(
    `SELECT id, device, revision FROM deployments WHERE id IN (${sql.dialect.list('ids')})`,
    { ids: idList(ids) },
  );
  return new Map(rows.map((row) => [row.id, row]));
};

/** One report each of different devices. Returns the deployments that moved since they were read. */
const saveReports = async (sql: Sql, all: readonly ReportRow[]): Promise<Id[]> => {
  const reports = await newOf(sql, all);
  const revisions = await revisionsOf(sql, reports);
  const conflicts = new Map(reports.map((report) => [report, conflictsOf(report, revisions)]));
  // A report is saved whole or not at all: its seq must not count as seen while a part of it is yet to be retried.
  const whole = reports.filter((report) => conflicts.get(report)!.length === 0);
  await saveDevices(sql, whole);
  const moved = whole.flatMap(({ device, at, running, deployments }) =>
    deployments.map((next) => ({ device, at, running, next })),
  );
  for (const round of inRounds(moved)) await saveDeployments(sql, round);
  await appendAudit(
    sql,
    whole.flatMap(({ audit }) => audit),
  );
  await noteDrift(sql, whole);
  return [...conflicts.values()].flat();
};

const REPORTED = {
  device: 'text',
  boot: 'text',
  agent: 'text',
  running: 'json',
  floor: 'integer',
  attributes: 'json',
  seq: 'integer',
  at: 'integer',
} as const satisfies Record<string, ColumnType>;

const pickReported = ({ device, boot, agent, running, floor, attributes, seq, at }: ReportRow) => ({
  device,
  boot,
  agent,
  running,
  floor,
  attributes,
  seq,
  at,
});

const saveDevices = async (sql: Sql, reports: readonly ReportRow[]): Promise<void> => {
  if (reports.length === 0) return;
  const { larger, rows } = sql.dialect;
  await sql.run(
    `UPDATE devices SET boot = report.boot, agent = report.agent, running = report.running, floor = report.floor,
       attributes = report.attributes, report_seq = report.seq,
       last_seen_at = ${larger('coalesce(last_seen_at, 0)', 'report.at')}
     FROM ${rows('report', REPORTED)} WHERE devices.id = report.device`,
    {
      report: rowList(reports.map(pickReported)),
    },
  );
};

type Reported = Pick<ReportRow, 'device' | 'at' | 'running'> & { next: DeploymentRecord };

/** One deployment each of different devices. */
const saveDeployments = async (sql: Sql, moved: readonly Reported[]): Promise<void> => {
  const nexts = moved.map(({ next }) => next);
  await moveDeployments(sql, moved);
  await settleOwners(sql, moved);
  await expectOutcomes(sql, moved);
  await watchCommitted(sql, nexts);
  await wakeRecalled(sql, moved);
};

/** Which deployment owns each device after these have moved. */
const settleOwners = async (sql: Sql, moved: readonly Reported[]): Promise<void> => {
  const { own = [], ended = [] } = Object.groupBy(moved, ({ next }) => (owns(next) ? 'own' : 'ended'));
  const freed = new Set(
    await freeDevices(
      sql,
      ended.map(({ next }) => next),
    ),
  );
  // A device that loses its journal does again what is still wanted of it: not what has just gone wrong there.
  for (const { device, next, at } of ended)
    if (freed.has(device) && (next.state === 'failed' || next.state === 'reverted' || next.state === 'planned'))
      await instruct(
        sql,
        [{ device, instruction: { kind: 'none', reason: `the deployment ended: ${next.state}` } }],
        at,
      );
  // A late report of a deployment that was given up (overdue, withdrawn) makes it own its device again if no other
  // does; without a deadline it might do so forever.
  const late = own.filter(({ next }) => next.deadlineAt !== null);
  if (late.length === 0) return;
  const rows = sql.dialect.rows('late', { device: 'text', id: 'text', rollout: 'text', deadline: 'integer' });
  const values = {
    late: rowList(
      late.map(({ next }) => ({ device: next.device, id: next.id, rollout: next.rollout, deadline: next.deadlineAt })),
    ),
  };
  await sql.run(
    `UPDATE devices SET deployment = late.id FROM ${rows} WHERE devices.id = late.device AND devices.deployment IS NULL`,
    values,
  );
  // Its rollout may be at rest, and has to keep that deadline, also when this process ends before anything looks.
  await sql.run(
    `UPDATE rollouts SET next_tick_at = (SELECT min(deadline) FROM ${rows} WHERE late.rollout = rollouts.id)
     WHERE next_tick_at IS NULL AND id IN (SELECT rollout FROM ${rows})`,
    values,
  );
};

export const ingest = {
  saveHeartbeats: async (sql, heartbeats) => {
    for (const round of inRounds(heartbeats)) await saveHeartbeats(sql, round);
  },
  saveReports: async (sql, reports) => {
    const conflicts: Id[] = [];
    for (const round of inRounds(reports)) conflicts.push(...(await saveReports(sql, round)));
    return { conflicts };
  },
} satisfies Partial<Methods>;

/** What devices report, in batches: the hottest writes of the server. */
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { Id } from '#shared/ids.ts';
import type { ReportRow } from '../ingest.ts';
import { appendAudit } from './audit.ts';
import { OWNING_STATES, updateDeployment } from './deployments.ts';
import { instruct } from './desired.ts';
import { expectOutcome, noteDrift } from './drift.ts';
import { wakeRecalled } from './recalls.ts';
import { type Sql, toJson } from './sql.ts';
import type { SyncStore } from './sync.ts';
import { watchCommitted } from './watch.ts';

/** How far back a server's clock may be set before the times it wrote earlier stop counting as newer. */
const CLOCK_SET_BACK_MS = 60_000;

/** The deployments of a report that somebody else has moved since they were read. */
const conflictsOf = (sql: Sql, report: ReportRow): Id[] =>
  report.deployments
    .filter((next) => {
      const stored = sql.get<{ device: Id; revision: number }>(
        'SELECT device, revision FROM deployments WHERE id = ?',
        next.id,
      );
      if (stored !== undefined && stored.device !== report.device)
        throw new Error(`a report of ${report.device} would move deployment ${next.id} of ${stored.device}`);
      return stored?.revision !== next.revision;
    })
    .map(({ id }) => id);

/** Who owns the device after a deployment has moved. */
const settleOwner = (sql: Sql, next: DeploymentRecord, now: number): void => {
  if (!OWNING_STATES.includes(next.state)) {
    const freed =
      sql.run('UPDATE devices SET deployment = NULL WHERE id = ? AND deployment = ?', next.device, next.id) > 0;
    // A device that loses its journal does again what is still wanted of it: not what has just gone wrong there.
    if (freed && (next.state === 'failed' || next.state === 'reverted' || next.state === 'planned')) {
      const instruction = { kind: 'none' as const, reason: `the deployment ended: ${next.state}` };
      instruct(sql, [{ device: next.device, instruction }], now);
    }
    return;
  }
  // A late report of a deployment that was given up (overdue, withdrawn) makes it own its device again if nobody does;
  // without a deadline it might do so for ever.
  if (next.deadlineAt === null) return;
  sql.run('UPDATE devices SET deployment = ? WHERE id = ? AND deployment IS NULL', next.id, next.device);
  // Its rollout may be at rest, and somebody has to keep that deadline, also when this process ends before anybody looks.
  sql.run('UPDATE rollouts SET next_tick_at = ? WHERE id = ? AND next_tick_at IS NULL', next.deadlineAt, next.rollout);
};

const saveReport = (sql: Sql, report: ReportRow): void => {
  sql.run(
    `UPDATE devices SET boot = ?, agent = ?, running = ?, floor = ?, attributes = ?, report_seq = ?,
       last_seen_at = max(ifnull(last_seen_at, 0), ?) WHERE id = ?`,
    report.boot,
    report.agent,
    toJson(report.running),
    report.floor,
    JSON.stringify(report.attributes),
    report.seq,
    report.at,
    report.device,
  );
  for (const next of report.deployments) {
    updateDeployment(sql, next);
    settleOwner(sql, next, report.at);
    expectOutcome(sql, next, report.running);
    watchCommitted(sql, next);
    wakeRecalled(sql, next, report.at);
  }
  appendAudit(sql, report.audit);
  noteDrift(sql, report.device, report.at, report.trialOf ?? null);
};

export const ingest = (sql: Sql) =>
  ({
    saveHeartbeats: (heartbeats) => {
      // A heartbeat waits in a batch longer than a report does, so it may arrive after what overtook it.
      for (const heartbeat of heartbeats) {
        const saved = sql.run(
          `UPDATE devices SET boot = ?, running = ?, healthy = ?, last_seen_at = ?,
             unhealthy_since = iif(?, NULL, ifnull(unhealthy_since, ?)),
             restarts = restarts + (watched IS NOT NULL
               AND ((NOT ? AND unhealthy_since IS NULL) OR ifnull(heard_boot <> ?, 0))),
             heard_boot = ?
           WHERE id = ? AND (last_seen_at IS NULL OR last_seen_at <= ? OR last_seen_at > ?)`,
          heartbeat.boot,
          toJson(heartbeat.running),
          heartbeat.healthy ? 1 : 0,
          heartbeat.at,
          heartbeat.healthy ? 1 : 0,
          heartbeat.at,
          heartbeat.healthy ? 1 : 0,
          heartbeat.boot,
          heartbeat.boot,
          heartbeat.device,
          heartbeat.at,
          heartbeat.at + CLOCK_SET_BACK_MS,
        );
        if (saved > 0) noteDrift(sql, heartbeat.device, heartbeat.at, heartbeat.trialOf ?? null);
      }
    },
    saveReports: (reports) => {
      const conflicts: Id[] = [];
      for (const report of reports) {
        const known = sql.get<{ reportSeq: number; publicKey: string }>(
          'SELECT report_seq AS reportSeq, public_key AS publicKey FROM devices WHERE id = ?',
          report.device,
        );
        if (known === undefined || report.seq <= known.reportSeq) continue;
        // Its receipts would stand in the log behind the new key, and never verify there.
        if (report.publicKey !== known.publicKey) continue;
        // A report is saved whole or not at all: its seq must not count as seen while a part of it is yet to be retried.
        const moved = conflictsOf(sql, report);
        if (moved.length > 0) conflicts.push(...moved);
        else saveReport(sql, report);
      }
      return { conflicts };
    },
  }) satisfies Partial<SyncStore>;

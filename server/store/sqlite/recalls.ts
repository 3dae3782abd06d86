/** Rollouts that were recalled: who runs their release because of them, who goes back with which rollout, and who can not. */
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { Recallable } from '#server/domain/rollout/recall.ts';
import type { Running } from '#shared/deployment.ts';
import type { Id } from '#shared/ids.ts';
import type { StayReason } from '#shared/recall.ts';
import type { RolloutRecord } from '../rollouts.ts';
import { appendAudit } from './audit.ts';
import { insertRollout } from './rollouts.ts';
import { fromJson, limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';
import { joinRollout } from './timing.ts';

const NAMED_MAX = 20;

/** Somebody commits late in a rollout that was recalled, and perhaps at rest: it has to be looked at, also when this process ends before that. */
export const wakeRecalled = (sql: Sql, { rollout, state }: DeploymentRecord, now: number): void => {
  if (state === 'committed')
    sql.run(
      `UPDATE rollouts SET next_tick_at = ?
       WHERE id = ? AND next_tick_at IS NULL AND progress ->> '$.recalled.at' IS NOT NULL`,
      now,
      rollout,
    );
};

type Row = Omit<Recallable, 'before' | 'isLetIn'> & { before: string | null; isLetIn: number };

/**
 * "Because of it": it was offered the release by this rollout, or ran it already then, and has committed nothing in another rollout since.
 * One that is on its way back, or was looked at since the recall, is not listed again.
 */
const RECALLABLE = `
  SELECT mine.device, mine.cohort, mine.compatible, mine.state,
    iif(ran_before ->> 'manifest' = manifest_sha256, NULL, ran_before) AS before, floor, devices.state = 'accepted' AS isLetIn
  FROM deployments AS mine JOIN rollouts ON rollouts.id = mine.rollout
    JOIN bundles ON product = plan ->> 'product' AND version = plan ->> 'version' AND bundles.compatible = mine.compatible
    CROSS JOIN devices ON devices.id = mine.device
  WHERE mine.rollout = ?
    AND (mine.state IN ('committed', 'skipped') OR (mine.state = 'failed' AND mine.error ->> 'code' = 'REGRESSED'))
    AND ifnull(running_manifest, manifest_sha256) = manifest_sha256
    AND NOT EXISTS (SELECT 1 FROM deployments AS later
      WHERE later.device = mine.device AND later.rollout <> mine.rollout AND later.state = 'committed'
        AND later.decided_at > mine.decided_at)
    AND NOT EXISTS (SELECT 1 FROM deployments AS back JOIN rollouts AS recalling ON recalling.id = back.rollout
      WHERE back.device = mine.device AND recalling.recalls = mine.rollout
        AND (recalling.plan ->> '$.createdAt' >= ?
          OR back.state IN ('planned', 'offered', 'fetching', 'installing', 'ready', 'trial')))
    AND NOT EXISTS (SELECT 1 FROM recall_stays
      WHERE recall_stays.rollout = mine.rollout AND recall_stays.device = mine.device AND at >= ?)
  ORDER BY mine.n LIMIT ?`;

const hasChanged = (sql: Sql, { plan, revision }: RolloutRecord): boolean =>
  sql.get('SELECT 1 FROM rollouts WHERE id = ? AND revision = ?', plan.id, revision) === undefined;

export const recalls = (sql: Sql) =>
  ({
    listRecallable: (rollout, since, limit) =>
      sql.all<Row>(RECALLABLE, rollout, since, since, limitOf(limit)).map(({ before, isLetIn, ...row }) => ({
        ...row,
        before: before === null ? null : fromJson<Running>(before),
        isLetIn: isLetIn === 1,
      })),
    saveRecall: ({ recalled, created, joined, stays, audit, now }) => {
      // All of them before anything is written: what is written here is kept.
      if ([recalled, ...joined.map(({ rollout }) => rollout)].some((one) => hasChanged(sql, one))) return 'conflict';
      sql.run('UPDATE rollouts SET revision = revision + 1 WHERE id = ?', recalled.plan.id);
      for (const { rollout, deployments } of joined) joinRollout(sql, rollout, deployments, now);
      for (const { rollout, deployments } of created) insertRollout(sql, rollout, deployments);
      for (const { device, reason } of stays)
        sql.run(
          `INSERT INTO recall_stays (rollout, device, reason, at) VALUES (?, ?, ?, ?)
           ON CONFLICT DO UPDATE SET reason = excluded.reason, at = excluded.at`,
          recalled.plan.id,
          device,
          reason,
          now,
        );
      appendAudit(sql, audit);
      return 'saved';
    },
    listRecalls: (rollout) =>
      sql.all<{ id: Id; product: string; version: string; devices: number }>(
        `SELECT id, plan ->> 'product' AS product, plan ->> 'version' AS version,
           (SELECT count(*) FROM deployments WHERE rollout = rollouts.id) AS devices
         FROM rollouts WHERE recalls = ? ORDER BY n LIMIT 1000`,
        rollout,
      ),
    listStays: (rollout, since) =>
      sql
        .all<{ reason: StayReason; devices: number }>(
          `SELECT reason, count(*) AS devices FROM recall_stays WHERE rollout = ? AND at >= ? GROUP BY reason
           ORDER BY devices DESC, reason`,
          rollout,
          since,
        )
        .map(({ reason, devices }) => ({
          reason,
          devices,
          named: sql
            .all<{ device: Id }>(
              `SELECT device FROM recall_stays WHERE rollout = ? AND reason = ? AND at >= ? ORDER BY device LIMIT ${NAMED_MAX}`,
              rollout,
              reason,
              since,
            )
            .map(({ device }) => device),
        })),
  }) satisfies Partial<SyncStore>;

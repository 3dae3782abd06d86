/**
 * Rollouts that were recalled: who runs their release because of them, who goes back with which rollout, and who
 * cannot.
 */
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { isRecallable, type Recallable, type RecallFacts } from '#server/domain/rollout/recall.ts';
import type { DeviceError, Running } from '#shared/deployment.ts';
import type { Id } from '#shared/ids.ts';
import type { StayReason } from '#shared/recall.ts';
import type { RolloutRecord } from '../rollouts.ts';
import { fromJson, idList, limitOf, rowList, type Sql } from '../sql.ts';
import { appendAudit } from './audit.ts';
import type { Methods } from './methods.ts';
import { insertRollout } from './rollouts.ts';
import { joinRollout } from './timing.ts';

const NAMED_MAX = 20;
/** Devices that are looked at at once. */
const PAGE = 1_000;

/**
 * A device commits late in a rollout that was recalled, and perhaps at rest: it has to be looked at, also when this
 * process ends before that.
 */
export const wakeRecalled = async (
  sql: Sql,
  moved: readonly { next: DeploymentRecord; at: number }[],
): Promise<void> => {
  const committed = moved.filter(({ next }) => next.state === 'committed');
  if (committed.length === 0) return;
  await sql.run(
    `UPDATE rollouts SET next_tick_at = :now
     WHERE id IN (${sql.dialect.list('ids')}) AND next_tick_at IS NULL AND progress -> 'recalled' ->> 'at' IS NOT NULL`,
    {
      now: Math.min(...committed.map(({ at }) => at)),
      ids: idList([...new Set(committed.map(({ next }) => next.rollout))]),
    },
  );
};

type Row = Omit<Recallable, 'before' | 'isLetIn' | 'state'> &
  Omit<RecallFacts, 'error' | 'committedElsewhere'> & {
    n: number;
    before: string | null;
    isLetIn: number;
    error: string | null;
    committedElsewhere: number;
  };

/** Not those that are on their way back, or were looked at since the recall. */
const CANDIDATES = `
  SELECT mine.n, mine.device, mine.cohort, mine.compatible, mine.state, mine.error, running_manifest AS runs,
    manifest_sha256 AS manifest, ran_before AS before, floor,
    CASE WHEN devices.state = 'accepted' THEN 1 ELSE 0 END AS "isLetIn",
    CASE WHEN EXISTS (SELECT 1 FROM deployments AS later
      WHERE later.device = mine.device AND later.rollout <> mine.rollout AND later.state = 'committed'
        AND later.decided_at > mine.decided_at) THEN 1 ELSE 0 END AS "committedElsewhere"
  FROM deployments AS mine JOIN rollouts ON rollouts.id = mine.rollout
    JOIN bundles ON product = plan ->> 'product' AND version = plan ->> 'version' AND bundles.compatible = mine.compatible
    CROSS JOIN devices
  WHERE devices.id = mine.device AND mine.rollout = :rollout AND mine.n > :after
    AND mine.state IN ('committed', 'skipped', 'failed')
    AND NOT EXISTS (SELECT 1 FROM deployments AS back JOIN rollouts AS recalling ON recalling.id = back.rollout
      WHERE back.device = mine.device AND recalling.recalls = mine.rollout
        AND (CAST(recalling.plan ->> 'createdAt' AS BIGINT) >= :since
          OR back.state IN ('planned', 'offered', 'fetching', 'installing', 'ready', 'trial')))
    AND NOT EXISTS (SELECT 1 FROM recall_stays
      WHERE recall_stays.rollout = mine.rollout AND recall_stays.device = mine.device AND at >= :since)
  ORDER BY mine.n LIMIT :limit`;

const toRecallable = (row: Row): Recallable | undefined => {
  const { device, cohort, compatible, state, runs, manifest, floor } = row;
  const error = row.error === null ? null : fromJson<DeviceError>(row.error);
  const facts: RecallFacts = { state, error, runs, manifest, committedElsewhere: row.committedElsewhere === 1 };
  if (!isRecallable(facts)) return undefined;
  const before = row.before === null ? null : fromJson<Running>(row.before);
  return {
    device,
    cohort,
    compatible,
    state: facts.state,
    floor,
    isLetIn: row.isLetIn === 1,
    before: before?.manifest === manifest ? null : before,
  };
};

const hasChanged = async (sql: Sql, { plan, revision }: RolloutRecord): Promise<boolean> => {
  const found = await sql.get('SELECT 1 FROM rollouts WHERE id = :id AND revision = :revision', {
    id: plan.id,
    revision,
  });
  return found === undefined;
};
const hasAnyChanged = async (sql: Sql, rollouts: readonly RolloutRecord[]): Promise<boolean> => {
  for (const rollout of rollouts) if (await hasChanged(sql, rollout)) return true;
  return false;
};

export const recalls = {
  listRecallable: async (sql, rollout, since, limit) => {
    const found: Recallable[] = [];
    for (let after = 0; ; ) {
      const rows = await sql.all<Row>(CANDIDATES, { rollout, since, after, limit: PAGE });
      found.push(...rows.flatMap((row) => toRecallable(row) ?? []));
      if (rows.length < PAGE || found.length >= limitOf(limit)) return found.slice(0, limit);
      after = rows.at(-1)!.n;
    }
  },
  saveRecall: async (sql, { recalled, created, joined, stays, audit, now }) => {
    // All of them before anything is written: what is written here is kept.
    if (await hasAnyChanged(sql, [recalled, ...joined.map(({ rollout }) => rollout)])) return 'conflict';
    const { id } = recalled.plan;
    await sql.run('UPDATE rollouts SET revision = revision + 1 WHERE id = :id', { id });
    for (const { rollout, deployments } of joined) await joinRollout(sql, rollout, deployments, now);
    for (const { rollout, deployments } of created) await insertRollout(sql, rollout, deployments);
    if (stays.length > 0)
      await sql.run(
        `INSERT INTO recall_stays (rollout, device, reason, at)
         SELECT :id, stay.device, stay.reason, CAST(:now AS BIGINT)
         FROM ${sql.dialect.rows('stay', { device: 'text', reason: 'text' })} WHERE true
         ON CONFLICT (rollout, device) DO UPDATE SET reason = excluded.reason, at = excluded.at`,
        { id, now, stay: rowList(stays) },
      );
    await appendAudit(sql, audit);
    return 'saved';
  },
  listRecalls: (sql, rollout) =>
    sql.all<{ id: Id; product: string; version: string; devices: number }>(
      `SELECT id, plan ->> 'product' AS product, plan ->> 'version' AS version,
         (SELECT count(*) FROM deployments WHERE rollout = rollouts.id) AS devices
       FROM rollouts WHERE recalls = :rollout ORDER BY n LIMIT 1000`,
      { rollout },
    ),
  listStays: async (sql, rollout, since) => {
    const rows = await sql.all<{ reason: StayReason; devices: number; device: Id }>(
      `SELECT reason, device, devices FROM (
         SELECT reason, device, count(*) OVER (PARTITION BY reason) AS devices,
           row_number() OVER (PARTITION BY reason ORDER BY device) AS place
         FROM recall_stays WHERE rollout = :rollout AND at >= :since) AS ranked
       WHERE place <= ${NAMED_MAX} ORDER BY devices DESC, reason, device`,
      { rollout, since },
    );
    return [...Map.groupBy(rows, ({ reason }) => reason)].map(([reason, named]) => ({
      reason,
      devices: named[0]!.devices,
      named: named.map(({ device }) => device),
    }));
  },
} satisfies Partial<Methods>;

/** Devices that committed, watched by their heartbeats (domain/late-regression.ts). */
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { inBatches } from '#shared/batches.ts';
import type { Sha256 } from '#shared/ids.ts';
import type { WatchedDeployment } from '../rollouts.ts';
import { limitOf, rowList, type Sql } from '../sql.ts';
import { appendAudit } from './audit.ts';
import { type DeploymentRow, deploymentColumns, moveDeployments, toDeployment } from './deployments.ts';
import type { Methods } from './methods.ts';

const DEVICES_AT_ONCE = 500;

/** Something else has happened to these: their devices are not watched for them any more. */
const unwatch = async (sql: Sql, deployments: readonly DeploymentRecord[]): Promise<void> => {
  for (const batch of inBatches(deployments, DEVICES_AT_ONCE))
    await sql.run(
      `UPDATE devices SET watched = NULL FROM ${sql.dialect.rows('moved', { id: 'text', device: 'text' })}
       WHERE devices.id = moved.device AND watched = moved.id`,
      { moved: rowList(batch.map(({ id, device }) => ({ id, device }))) },
    );
};

/**
 * Deployments have moved by their devices' reports: from its commit on a device is watched, until something else
 * happens to it.
 */
export const watchCommitted = async (sql: Sql, moved: readonly DeploymentRecord[]): Promise<void> => {
  const { committed = [], others = [] } = Object.groupBy(moved, ({ state }) =>
    state === 'committed' ? 'committed' : 'others',
  );
  await unwatch(sql, others);
  if (committed.length === 0) return;
  await sql.run(
    `UPDATE devices SET watched = now_watched.id, unhealthy_since = NULL, restarts = 0, heard_boot = NULL,
       watched_manifest = (SELECT manifest_sha256 FROM rollouts JOIN bundles
         ON product = plan ->> 'product' AND version = plan ->> 'version'
         WHERE rollouts.id = now_watched.rollout AND bundles.compatible = now_watched.fits)
     FROM ${sql.dialect.rows('now_watched', { id: 'text', device: 'text', rollout: 'text', fits: 'text' })}
     WHERE devices.id = now_watched.device`,
    {
      now_watched: rowList(
        committed.map(({ id, device, rollout, compatible }) => ({ id, device, rollout, fits: compatible })),
      ),
    },
  );
};

type Row = DeploymentRow & {
  unhealthySince: number | null;
  restarts: number;
  runs: Sha256 | null;
  committed: Sha256 | null;
  lastSeenAt: number | null;
  says: string | null;
};

export const watch = {
  // The condition in brackets is word for word that of the index `devices_suspect`: the many that are well cost
  // nothing.
  listSuspects: async (sql, rollout, committedSince, limit) => {
    const rows = await sql.all<Row>(
      `SELECT ${deploymentColumns('deployments')}, unhealthy_since AS "unhealthySince", restarts,
         running_manifest AS runs, watched_manifest AS committed, last_seen_at AS "lastSeenAt",
         devices.attributes ->> 'unhealthy' AS says
       FROM devices CROSS JOIN deployments
       WHERE (unhealthy_since IS NOT NULL OR restarts > 0 OR running_manifest <> watched_manifest)
         AND deployments.id = watched AND rollout = :rollout AND deployments.state = 'committed'
         AND decided_at > :committedSince
       ORDER BY deployments.n LIMIT :limit`,
      { rollout, committedSince, limit: limitOf(limit) },
    );
    return rows.map((row): WatchedDeployment => {
      const { unhealthySince, restarts, runs, committed, lastSeenAt, says } = row;
      const health = { unhealthySince, restarts, runs, committed, lastSeenAt, ...(says === null ? {} : { says }) };
      return { deployment: toDeployment(row), health };
    });
  },
  saveRegressions: async (sql, moves) => {
    const saved = await moveDeployments(sql, moves);
    const moved = moves.filter(({ next }) => saved.has(next.id));
    await unwatch(
      sql,
      moved.map(({ next }) => next),
    );
    await appendAudit(
      sql,
      moved.flatMap(({ audit }) => audit),
    );
    return moved.length;
  },
} satisfies Partial<Methods>;

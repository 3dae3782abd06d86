/** Devices that committed, watched by their heartbeats (domain/late-regression.ts). */

import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { Sha256 } from '#shared/ids.ts';
import type { WatchedDeployment } from '../rollouts.ts';
import { appendAudit } from './audit.ts';
import { readDeployments, updateDeployment } from './deployments.ts';
import { limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

/** A deployment has moved by its device's word: from its commit on the device is watched, until something else happens to it. */
export const watchCommitted = (sql: Sql, next: DeploymentRecord): void => {
  if (next.state !== 'committed') {
    sql.run('UPDATE devices SET watched = NULL WHERE id = ? AND watched = ?', next.device, next.id);
    return;
  }
  sql.run(
    `UPDATE devices SET watched = ?, unhealthy_since = NULL, restarts = 0, heard_boot = NULL,
       watched_manifest = (SELECT manifest_sha256 FROM rollouts JOIN bundles
         ON product = plan ->> 'product' AND version = plan ->> 'version' WHERE rollouts.id = ? AND compatible = ?)
     WHERE id = ?`,
    next.id,
    next.rollout,
    next.compatible,
    next.device,
  );
};

type Row = {
  id: DeploymentRecord['id'];
  unhealthySince: number | null;
  restarts: number;
  runs: Sha256 | null;
  committed: Sha256 | null;
  lastSeenAt: number | null;
  says: string | null;
};

export const watch = (sql: Sql) =>
  ({
    // The condition in brackets is word for word that of the index `devices_suspect`: the many that are well cost nothing.
    listSuspects: (rollout, committedSince, limit) => {
      const rows = sql.all<Row>(
        `SELECT deployments.id, unhealthy_since AS unhealthySince, restarts, running_manifest AS runs,
           watched_manifest AS committed, last_seen_at AS lastSeenAt,
           devices.attributes ->> '$.unhealthy' AS says
         FROM devices CROSS JOIN deployments ON deployments.id = watched
         WHERE (unhealthy_since IS NOT NULL OR restarts > 0 OR running_manifest <> watched_manifest)
           AND rollout = ? AND deployments.state = 'committed' AND decided_at > ?
         ORDER BY deployments.n LIMIT ?`,
        rollout,
        committedSince,
        limitOf(limit),
      );
      const known = new Map(
        readDeployments(
          sql,
          rows.map(({ id }) => id),
        ).map((deployment) => [deployment.id, deployment]),
      );
      return rows.flatMap(({ id, says, ...health }): WatchedDeployment[] => {
        const deployment = known.get(id);
        return deployment === undefined ? [] : [{ deployment, health: says === null ? health : { ...health, says } }];
      });
    },
    saveRegressions: (moves) => {
      let saved = 0;
      for (const { next, audit } of moves) {
        if (updateDeployment(sql, next) === 0) continue;
        saved += 1;
        sql.run('UPDATE devices SET watched = NULL WHERE id = ? AND watched = ?', next.device, next.id);
        appendAudit(sql, audit);
      }
      return saved;
    },
  }) satisfies Partial<SyncStore>;

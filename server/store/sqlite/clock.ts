import { moved, moveProgress } from '#server/domain/rollout/clock-step.ts';
import type { RolloutState } from '#server/domain/rollout/rollout.ts';
import type { Id } from '#shared/ids.ts';
import { appendAudit } from './audit.ts';
import { fromJson, idList, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

/**
 * Those that the clock may still do something to. Of what is over times are records; but which deployment of a device came later is told by
 * them, so that all go back together.
 */
const LIVE = "next_tick_at IS NOT NULL OR state NOT IN ('completed', 'aborted')";
const MOVED = ['offered_at', 'accepted_at', 'state_at', 'decided_at', 'deadline_at', 'grace_until'];
const HEARD = ['last_seen_at', 'unhealthy_since', 'key_shared_at'];
/** Null stays null. */
const moving = (columns: readonly string[]): string =>
  columns.map((column) => `${column} = max(0, ${column} + (SELECT by_ms FROM step))`).join(', ');

export const clock = (sql: Sql) =>
  ({
    moveTimes: (byMs, now, audit) => {
      const live = sql.all<{ id: Id; progress: string }>(`SELECT id, progress FROM rollouts WHERE ${LIVE}`);
      for (const { id, progress } of live) {
        sql.run(
          `UPDATE rollouts SET progress = ?, next_tick_at = iif(next_tick_at IS NULL, NULL, ?), revision = revision + 1
           WHERE id = ?`,
          JSON.stringify(moveProgress(fromJson<RolloutState>(progress), byMs)),
          moved(now, 0),
          id,
        );
      }
      const deployments = sql.run(
        `WITH step (by_ms) AS (SELECT CAST(? AS INTEGER))
         UPDATE deployments SET ${moving(MOVED)}, revision = revision + 1,
           attempts = iif(attempts ->> 'notBefore' IS NULL, attempts,
             json_set(attempts, '$.notBefore', max(0, (attempts ->> 'notBefore') + (SELECT by_ms FROM step))))
         WHERE (? OR rollout IN (SELECT value FROM json_each(?))) AND (offered_at IS NOT NULL OR attempts IS NOT NULL)`,
        byMs,
        byMs < 0 ? 1 : 0,
        idList(live.map(({ id }) => id)),
      );
      sql.run(`WITH step (by_ms) AS (SELECT CAST(? AS INTEGER)) UPDATE devices SET ${moving(HEARD)}`, byMs);
      appendAudit(sql, audit);
      return { rollouts: live.length, deployments };
    },
  }) satisfies Partial<SyncStore>;

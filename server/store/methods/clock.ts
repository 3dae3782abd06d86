import { moved, moveProgress } from '#server/domain/rollout/clock-step.ts';
import type { RolloutState } from '#server/domain/rollout/rollout.ts';
import type { Id } from '#shared/ids.ts';
import { fromJson, idList, rowList, type Sql } from '../sql.ts';
import { appendAudit } from './audit.ts';
import type { Methods } from './methods.ts';

/**
 * Those that the clock may still do something to. Of what is over times are records; but which deployment of a device
 * came later is told by them, so that all go back together.
 */
const LIVE = "next_tick_at IS NOT NULL OR state NOT IN ('completed', 'aborted')";
const MOVED = ['offered_at', 'accepted_at', 'state_at', 'decided_at', 'deadline_at', 'grace_until'];
const HEARD = ['last_seen_at', 'unhealthy_since', 'key_shared_at'];
/** Null stays null. */
const moving = ({ dialect }: Sql, columns: readonly string[]): string =>
  columns
    .map((column) => {
      const moved = dialect.larger('0', `${column} + CAST(:byMs AS BIGINT)`);
      return `${column} = CASE WHEN ${column} IS NOT NULL THEN ${moved} END`;
    })
    .join(', ');

export const clock = {
  // Times alone move, and all by the same: nothing is decided, so one statement does it for any number of rows.
  moveTimes: async (sql, byMs, now, audit) => {
    const { list, rows } = sql.dialect;
    const live = await sql.all<{ id: Id; progress: string }>(`SELECT id, progress FROM rollouts WHERE ${LIVE}`);
    await sql.run(
      `UPDATE rollouts SET progress = stepped.progress, revision = revision + 1,
         next_tick_at = CASE WHEN next_tick_at IS NOT NULL THEN CAST(:now AS BIGINT) END
       FROM ${rows('stepped', { id: 'text', progress: 'json' })} WHERE rollouts.id = stepped.id`,
      {
        now: moved(now, 0),
        stepped: rowList(
          live.map(({ id, progress }) => ({ id, progress: moveProgress(fromJson<RolloutState>(progress), byMs) })),
        ),
      },
    );
    const deployments = await sql.run(
      `UPDATE deployments SET ${moving(sql, MOVED)}, revision = revision + 1, attempts = ${sql.dialect.shifted('attempts', 'notBefore', 'byMs')}
       WHERE (:back OR rollout IN (${list('live')})) AND (offered_at IS NOT NULL OR attempts IS NOT NULL)`,
      { byMs, back: byMs < 0, live: idList(live.map(({ id }) => id)) },
    );
    await sql.run(`UPDATE devices SET ${moving(sql, HEARD)}`, { byMs });
    await appendAudit(sql, audit);
    return { rollouts: live.length, deployments };
  },
} satisfies Partial<Methods>;

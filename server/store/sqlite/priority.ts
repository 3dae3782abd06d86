/** Which rollout comes first where several want the same device: the one with the higher priority, then the one that owns it. */

import { auditLine, BY_SERVER } from '#server/domain/audit.ts';
import { SHARED_MS } from '#server/domain/device/boots.ts';
import type { Id } from '#shared/ids.ts';
import type { OfferRequest, ShutWindow } from '../rollouts.ts';
import { appendAudit } from './audit.ts';
import { inBatches } from './desired.ts';
import type { Sql } from './sql.ts';

type Journey = { id: Id; device: Id };

/** Is any rollout running that comes before this one? Mostly not, and then nobody has to look at its devices. */
export const hasRivalsAbove = (sql: Sql, rollout: Id): boolean =>
  sql.get(
    `SELECT 1 FROM rollouts AS above WHERE above.state = 'running'
       AND above.priority > (SELECT priority FROM rollouts WHERE id = ?) LIMIT 1`,
    rollout,
  ) !== undefined;

/** Of `theirs` of `above`: its window is not shut. Takes one value, from `shutKeys`. */
const NOT_SHUT = `above.id || '/' || theirs.cohort || '/' || ifnull(devices.attributes ->> '$.timezone', '')
    NOT IN (SELECT value FROM json_each(?))`;
const shutKeys = (shut: readonly ShutWindow[] | undefined): string =>
  JSON.stringify((shut ?? []).map(({ rollout, cohort, zone }) => `${rollout}/${cohort}/${zone}`));

/** A condition on `deployments` and their `devices`: no rollout that runs, comes first and may act now still wants the device. */
export const wantedByNobodyAbove = (shut: readonly ShutWindow[] | undefined): { sql: string; value: string } => ({
  sql: `NOT EXISTS (
  SELECT 1 FROM deployments AS theirs JOIN rollouts AS above ON above.id = theirs.rollout
  WHERE theirs.device = deployments.device AND theirs.state = 'planned' AND above.state = 'running'
    AND above.priority > (SELECT priority FROM rollouts WHERE id = deployments.rollout) AND ${NOT_SHUT})`,
  value: shutKeys(shut),
});

/**
 * Takes devices over from rollouts with a lower number, as long as they have not activated. What is taken is planned again
 * there, to be offered when this rollout is done with the device; what the device is told next supersedes the old offer.
 */
export const takeOver = (sql: Sql, rollout: Id, offer: OfferRequest, atMost: number, now: number): Journey[] => {
  if (atMost <= 0) return [];
  const wanted = wantedByNobodyAbove(offer.shutAbove);
  const taken = sql.all<Journey & { theirs: Id; from: Id }>(
    `SELECT deployments.id, deployments.device, theirs.id AS theirs, theirs.rollout AS "from"
     FROM deployments CROSS JOIN devices ON devices.id = deployments.device
       JOIN deployments AS theirs ON theirs.id = devices.deployment
       JOIN rollouts AS below ON below.id = theirs.rollout
     WHERE deployments.rollout = ? AND deployments.wave = ? AND deployments.cohort = ? AND deployments.compatible = ?
       AND deployments.state = 'planned' AND devices.state = 'accepted'
       AND ifnull(deployments.attempts ->> 'notBefore', 0) <= ? AND ifnull(devices.key_shared_at, 0) <= ?
       AND theirs.state IN ('offered', 'fetching', 'installing', 'ready')
       AND below.priority < (SELECT priority FROM rollouts WHERE id = ?)
       AND (? IS NULL OR ifnull(attributes ->> '$.timezone', '') IN (SELECT value FROM json_each(?)))
       AND ${wanted.sql}
     ORDER BY online DESC, deployments.position LIMIT ?`,
    rollout,
    offer.wave,
    offer.cohort,
    offer.compatible,
    now,
    now - SHARED_MS,
    rollout,
    zonesOf(offer),
    zonesOf(offer),
    wanted.value,
    atMost,
  );
  for (const { theirs } of taken)
    sql.run(
      // `offered_at` stays: an activation that the withdrawal comes too late for is still believed.
      `UPDATE deployments SET state = 'planned', state_at = ?, accepted_at = NULL, decided_at = NULL, deadline_at = NULL,
         held_until = NULL, revision = revision + 1 WHERE id = ?`,
      now,
      theirs,
    );
  for (const from of new Set(taken.map((one) => one.from))) {
    // It may have rested: its devices are waited for again.
    sql.run('UPDATE rollouts SET next_tick_at = ? WHERE id = ? AND next_tick_at IS NULL', now, from);
    const devices = taken.filter((one) => one.from === from).map(({ device }) => device);
    appendAudit(
      sql,
      inBatches(devices).map((batch) =>
        auditLine({ at: now, by: BY_SERVER, kind: 'taken-over', rollout: from, for: rollout, devices: batch }),
      ),
    );
  }
  return taken.map(({ id, device }) => ({ id, device }));
};

export const zonesOf = ({ zones }: OfferRequest): string | null =>
  zones === undefined ? null : JSON.stringify(zones.map(({ zone }) => zone));

/** The rollouts that keep planned devices of this one waiting, and how many each. */
export const blockersOf = (sql: Sql, rollout: Id, shut: readonly ShutWindow[]): { rollout: Id; devices: number }[] =>
  sql.all<{ rollout: Id; devices: number }>(
    `SELECT rollout, count(*) AS devices FROM (
       SELECT owning.rollout AS rollout FROM deployments CROSS JOIN devices ON devices.id = deployments.device
         JOIN deployments AS owning ON owning.id = devices.deployment
         WHERE deployments.rollout = ? AND deployments.state = 'planned'
       UNION ALL
       SELECT above.id FROM deployments CROSS JOIN devices ON devices.id = deployments.device
         JOIN deployments AS theirs ON theirs.device = deployments.device JOIN rollouts AS above ON above.id = theirs.rollout
         WHERE deployments.rollout = ? AND deployments.state = 'planned' AND devices.deployment IS NULL
           AND theirs.state = 'planned' AND above.state = 'running'
           AND above.priority > (SELECT priority FROM rollouts WHERE id = deployments.rollout) AND ${NOT_SHUT})
     GROUP BY rollout ORDER BY devices DESC, rollout LIMIT 100`,
    rollout,
    rollout,
    shutKeys(shut),
  );

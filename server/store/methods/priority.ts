/**
 * Which rollout comes first where several want the same device: the one with the higher priority, then the one that
 * owns it.
 */
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { SERVER_MOVES, takeOver } from '#server/domain/deployment/server-moves.ts';
import { SHARED_MS } from '#server/domain/device/boots.ts';
import type { Id } from '#shared/ids.ts';
import type { OfferRequest, ShutWindow } from '../rollouts.ts';
import { idList, type Sql } from '../sql.ts';
import { type DeploymentRow, deploymentColumns, readDeployments, toDeployment } from './deployments.ts';
import { saveMoved } from './moves.ts';

/** Does any rollout run that comes before this one? Mostly not, and then its devices need no look. */
export const hasRivalsAbove = async (sql: Sql, rollout: Id): Promise<boolean> => {
  const rival = await sql.get(
    `SELECT 1 FROM rollouts AS above WHERE above.state = 'running'
       AND above.priority > (SELECT priority FROM rollouts WHERE id = :rollout) LIMIT 1`,
    { rollout },
  );
  return rival !== undefined;
};

/** Of `theirs` of `above`: its window is not shut. Takes `:shut`, from `shutKeys`. */
const notShut = ({ dialect }: Sql): string =>
  `above.id || '/' || theirs.cohort || '/' || coalesce(devices.attributes ->> 'timezone', '') NOT IN (${dialect.list('shut')})`;
const shutKeys = (shut: readonly ShutWindow[] | undefined): string =>
  JSON.stringify((shut ?? []).map(({ rollout, cohort, zone }) => `${rollout}/${cohort}/${zone}`));

/**
 * A condition on `deployments` and their `devices`: no rollout that runs, comes first and may act now still wants the
 * device. Takes `:shut`.
 */
export const wantedByNobodyAbove = (sql: Sql): string => `NOT EXISTS (
  SELECT 1 FROM deployments AS theirs JOIN rollouts AS above ON above.id = theirs.rollout
  WHERE theirs.device = deployments.device AND theirs.state = 'planned' AND above.state = 'running'
    AND above.priority > (SELECT priority FROM rollouts WHERE id = deployments.rollout) AND ${notShut(sql)})`;

/** What an offer's windows bind: `:zones` and `:shut`. */
export const zonesOf = ({ zones, shutAbove }: OfferRequest): { zones: string | null; shut: string } => ({
  zones: zones === undefined ? null : JSON.stringify(zones.map(({ zone }) => zone)),
  shut: shutKeys(shutAbove),
});

/**
 * Takes devices over from rollouts with a lower number, as long as they have not activated, and returns the deployments
 * that they are taken for. What a device is told next supersedes the old offer.
 */
export const takeDevices = async (
  sql: Sql,
  { rollout, request, now }: { rollout: Id; request: OfferRequest; now: number },
  atMost: number,
): Promise<readonly DeploymentRecord[]> => {
  if (atMost <= 0) return [];
  const { list } = sql.dialect;
  const taken = await sql.all<DeploymentRow & { mine: Id }>(
    `SELECT ${deploymentColumns('theirs')}, deployments.id AS mine
     FROM deployments CROSS JOIN devices CROSS JOIN deployments AS theirs CROSS JOIN rollouts AS below
     WHERE devices.id = deployments.device AND theirs.id = devices.deployment AND below.id = theirs.rollout
       AND deployments.rollout = :rollout AND deployments.wave = :wave AND deployments.cohort = :cohort
       AND deployments.compatible = :compatible AND deployments.state = 'planned' AND devices.state = 'accepted'
       AND coalesce(CAST(deployments.attempts ->> 'notBefore' AS BIGINT), 0) <= :now
       AND coalesce(devices.key_shared_at, 0) <= :unsharedSince
       AND theirs.state IN (${list('from')}) AND below.priority < (SELECT priority FROM rollouts WHERE id = :rollout)
       AND (:zones IS NULL OR coalesce(attributes ->> 'timezone', '') IN (${list('zones')}))
       AND ${wantedByNobodyAbove(sql)}
     ORDER BY online DESC, deployments.position LIMIT :atMost`,
    {
      rollout,
      wave: request.wave,
      cohort: request.cohort,
      compatible: request.compatible,
      now,
      unsharedSince: now - SHARED_MS,
      from: idList(SERVER_MOVES['take over'].from),
      ...zonesOf(request),
      atMost,
    },
  );
  await saveMoved(sql, takeOver(taken.map(toDeployment), rollout, now));
  // They may have rested: their devices are waited for again.
  await sql.run(`UPDATE rollouts SET next_tick_at = :now WHERE id IN (${list('from')}) AND next_tick_at IS NULL`, {
    now,
    from: idList([...new Set(taken.map((one) => one.rollout))]),
  });
  const mine = await readDeployments(
    sql,
    taken.map((one) => one.mine),
  );
  const known = new Map(mine.map((deployment) => [deployment.id, deployment]));
  return taken.map((one) => known.get(one.mine)!);
};

/** The rollouts that keep planned devices of this one waiting, and how many each. */
export const blockersOf = (
  sql: Sql,
  rollout: Id,
  shut: readonly ShutWindow[],
): Promise<{ rollout: Id; devices: number }[]> =>
  sql.all<{ rollout: Id; devices: number }>(
    `SELECT rollout, count(*) AS devices FROM (
       SELECT owning.rollout AS rollout FROM deployments CROSS JOIN devices
         JOIN deployments AS owning ON owning.id = devices.deployment
         WHERE devices.id = deployments.device AND deployments.rollout = :rollout AND deployments.state = 'planned'
       UNION ALL
       SELECT above.id FROM deployments CROSS JOIN devices
         JOIN deployments AS theirs ON theirs.device = deployments.device JOIN rollouts AS above ON above.id = theirs.rollout
         WHERE devices.id = deployments.device AND deployments.rollout = :rollout AND deployments.state = 'planned'
           AND devices.deployment IS NULL AND theirs.state = 'planned' AND above.state = 'running'
           AND above.priority > (SELECT priority FROM rollouts WHERE id = deployments.rollout) AND ${notShut(sql)}) AS waited
     GROUP BY rollout ORDER BY devices DESC, rollout LIMIT 100`,
    { rollout, shut: shutKeys(shut) },
  );

import {
  type Alike,
  type Attempts,
  binsOf,
  type DeploymentRecord,
  inOrderOfBins,
  offersOf,
} from '#server/domain/deployment/deployment.ts';
import type { Move } from '#server/domain/deployment/server-moves.ts';
import { grantGrace } from '#server/domain/deployment/waits.ts';
import { SHARED_MS, SHARING_NAMED_MAX } from '#server/domain/device/boots.ts';
import { REFUSING_NAMED_MAX } from '#server/domain/device/refusing.ts';
import { inBatches } from '#shared/batches.ts';
import type { DeploymentState, DeviceError } from '#shared/deployment.ts';
import type { Id } from '#shared/ids.ts';
import type { DeploymentCount } from '../rollouts.ts';
import { type ColumnType, fromJson, idList, limitOf, rowList, type Sql, type Values } from '../sql.ts';
import type { Methods } from './methods.ts';

/** What a deployment may lack is null here, and `offers` counts from 0. */
export type DeploymentRow = Omit<DeploymentRecord, 'error' | 'attempts' | 'reached' | 'graceUntil' | 'offers'> & {
  error: string | null;
  attempts: string | null;
  reached: DeploymentState | null;
  graceUntil: number | null;
  offers: number;
};
const NAMES = 'id rollout device cohort compatible wave position state overdue error attempts reached offers revision';
const TIMES = 'offered_at accepted_at decided_at state_at deadline_at held_until grace_until';
const camelCase = (name: string): string => name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
/** The columns of a `DeploymentRow`, of the table that has this name in the query. */
export const deploymentColumns = (table: string): string =>
  `${NAMES} ${TIMES}`
    .split(' ')
    .map((name) => `${table}.${name} AS "${camelCase(name)}"`)
    .join(', ');
/** Of a row that may have other columns too. */
export const toDeployment = (row: DeploymentRow): DeploymentRecord => ({
  id: row.id,
  rollout: row.rollout,
  device: row.device,
  cohort: row.cohort,
  compatible: row.compatible,
  wave: row.wave,
  position: row.position,
  state: row.state,
  offeredAt: row.offeredAt,
  acceptedAt: row.acceptedAt,
  decidedAt: row.decidedAt,
  stateAt: row.stateAt,
  deadlineAt: row.deadlineAt,
  overdue: row.overdue,
  heldUntil: row.heldUntil,
  error: row.error === null ? null : fromJson<DeviceError>(row.error),
  ...(row.reached === null ? {} : { reached: row.reached }),
  ...(row.graceUntil === null ? {} : { graceUntil: row.graceUntil }),
  ...(row.offers > 1 ? { offers: row.offers } : {}),
  ...(row.attempts === null ? {} : { attempts: fromJson<Attempts>(row.attempts) }),
  revision: row.revision,
});

/** `rest`: everything behind `FROM deployments`. */
export const selectDeployments = async (sql: Sql, rest: string, values: Values): Promise<DeploymentRecord[]> => {
  const columns = deploymentColumns('deployments');
  return (await sql.all<DeploymentRow>(`SELECT ${columns} FROM deployments ${rest}`, values)).map(toDeployment);
};

/** Rows that one statement writes. */
const ROWS_AT_ONCE = 500;

const typed = (type: ColumnType, names: string): Record<string, ColumnType> =>
  Object.fromEntries(names.split(' ').map((name) => [name, type]));
const INSERTED = {
  ...typed('text', 'id rollout device cohort compatible state overdue'),
  ...typed('integer', 'wave position offered_at accepted_at decided_at state_at deadline_at held_until revision'),
  ...typed('json', 'error'),
};

export const insertDeployments = async (sql: Sql, deployments: readonly DeploymentRecord[]): Promise<void> => {
  const columns = Object.keys(INSERTED).join(', ');
  for (const batch of inBatches(deployments, ROWS_AT_ONCE))
    await sql.run(
      `INSERT INTO deployments (${columns}) SELECT ${columns} FROM ${sql.dialect.rows('added', INSERTED)}`,
      {
        added: rowList(batch.map((one) => ({ ...one, ...timesOf(one) }))),
      },
    );
};

const timesOf = (deployment: DeploymentRecord) => ({
  offered_at: deployment.offeredAt,
  accepted_at: deployment.acceptedAt,
  decided_at: deployment.decidedAt,
  state_at: deployment.stateAt,
  deadline_at: deployment.deadlineAt,
  held_until: deployment.heldUntil,
  grace_until: deployment.graceUntil ?? null,
});

/** What changes in a deployment's life. */
const MOVED = {
  ...typed('text', 'state overdue reached withdrawn_by'),
  ...typed('integer', `offers ${TIMES}`),
  ...typed('json', 'error attempts'),
};

/**
 * Saves the next states of deployments: of all that move, no matter what decided it. Only where the revision is still
 * the one that was moved from; it is counted up. Returns the ids of those that moved.
 */
export const moveDeployments = async (sql: Sql, moves: readonly Move[]): Promise<Set<Id>> => {
  const rows = sql.dialect.rows('moved', { id: 'text', revision: 'integer', ...MOVED });
  const columns = Object.keys(MOVED).map((column) => `${column} = moved.${column}`);
  const ids = new Set<Id>();
  for (const batch of inBatches(moves, ROWS_AT_ONCE)) {
    const saved = await sql.all<{ id: Id }>(
      `UPDATE deployments SET ${columns.join(', ')}, revision = deployments.revision + 1 FROM ${rows}
       WHERE deployments.id = moved.id AND deployments.revision = moved.revision RETURNING deployments.id AS id`,
      { moved: rowList(batch.map(toRow)) },
    );
    for (const { id } of saved) ids.add(id);
  }
  return ids;
};

const toRow = ({ next, withdrawnBy }: Move) => ({
  id: next.id,
  revision: next.revision,
  state: next.state,
  overdue: next.overdue,
  reached: next.reached ?? null,
  withdrawn_by: withdrawnBy ?? null,
  error: next.error,
  attempts: next.attempts ?? null,
  offers: offersOf(next),
  ...timesOf(next),
});

export const readDeployments = (sql: Sql, ids: readonly Id[]): Promise<DeploymentRecord[]> =>
  selectDeployments(sql, `WHERE deployments.id IN (${sql.dialect.list('ids')}) ORDER BY n`, { ids: idList(ids) });

/** Those that count alike, as one row each. Whole numbers, so that dividing them gives whole numbers. */
const COUNTED = `
  WITH judged AS (
    SELECT cohort, compatible, wave, state, overdue, accepted_at, held_until, coalesce(accepted_at, offered_at) AS start,
      decided_at - accepted_at AS delay, CAST(:binMs AS BIGINT) AS bin
    FROM deployments WHERE rollout = :rollout)
  SELECT cohort, compatible, wave, state, overdue,
    CASE WHEN accepted_at IS NOT NULL THEN 0 END AS "acceptedAt", CASE WHEN held_until IS NOT NULL THEN 0 END AS "heldUntil",
    start / bin AS "startBin", CASE WHEN delay < 0 THEN 0 ELSE delay / bin END AS "delayBins", count(*) AS devices
  FROM judged GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9`;

const numberOf = async (sql: Sql, id: string): Promise<number | undefined> =>
  (await sql.get<{ n: number }>('SELECT n FROM deployments WHERE id = :id', { id }))?.n;

export const deployments = {
  listDeployments: async (sql, { rollout, device, state }, page) => {
    const after = page.after === undefined ? 0 : await numberOf(sql, page.after);
    if (after === undefined) return [];
    const wanted = Object.entries({ rollout, device, state }).filter(([, value]) => value !== undefined);
    const conditions = [...wanted.map(([column]) => `${column} = :${column}`), 'n > :after'];
    return selectDeployments(sql, `WHERE ${conditions.join(' AND ')} ORDER BY n LIMIT :limit`, {
      ...Object.fromEntries(wanted),
      after,
      limit: limitOf(page.limit),
    });
  },
  getDeployments: readDeployments,
  listLate: (sql, devices) =>
    selectDeployments(
      sql,
      `WHERE device IN (${sql.dialect.list('devices')}) AND state = 'overdue' AND overdue <> 'never-heard'
         AND NOT EXISTS (SELECT 1 FROM deployments AS since
           WHERE since.device = deployments.device AND since.offered_at > deployments.offered_at)
       ORDER BY n`,
      { devices: idList(devices) },
    ),
  countDeployments: (sql, rollout) =>
    sql.all<DeploymentCount>(
      `SELECT wave, state, nullif(overdue, '') AS overdue, nullif(reached, '') AS reached, devices
       FROM deployment_counts WHERE rollout = :rollout AND devices <> 0
       ORDER BY wave, state, deployment_counts.overdue, deployment_counts.reached`,
      { rollout },
    ),
  getCoolingDown: async (sql, rollout, now) => {
    const found = await sql.get<{ devices: number; next: number | null }>(
      `SELECT count(*) AS devices, min(CAST(attempts ->> 'notBefore' AS BIGINT)) AS next FROM deployments
       WHERE rollout = :rollout AND state = 'planned' AND CAST(attempts ->> 'notBefore' AS BIGINT) > :now`,
      { rollout, now },
    );
    return found === undefined || found.next === null ? undefined : { devices: found.devices, next: found.next };
  },
  recountDeployments: (sql, rollout) =>
    sql.all<DeploymentCount>(
      `SELECT wave, state, overdue, CASE WHEN overdue IS NOT NULL THEN reached END AS reached, count(*) AS devices
       FROM deployments WHERE rollout = :rollout GROUP BY 1, 2, 3, 4
       ORDER BY wave, state, coalesce(overdue, ''), coalesce(CASE WHEN overdue IS NOT NULL THEN reached END, '')`,
      { rollout },
    ),
  countUntouched: async (sql, rollout) => {
    const found = await sql.get<{ devices: number }>(
      `SELECT count(*) AS devices FROM deployments
       WHERE rollout = :rollout AND state IN ('planned', 'withdrawn', 'overdue') AND accepted_at IS NULL
         AND coalesce(CAST(attempts ->> 'failed' AS BIGINT), 0) = 0`,
      { rollout },
    );
    return found?.devices ?? 0;
  },
  getSharingKey: async (sql, rollout, now) => {
    const all = await sql.all<{ device: Id }>(
      `SELECT devices.id AS device FROM deployments JOIN devices ON devices.id = deployments.device
       WHERE rollout = :rollout AND deployments.state = 'planned' AND key_shared_at > :since ORDER BY devices.id`,
      { rollout, since: now - SHARED_MS },
    );
    return { devices: all.length, named: all.slice(0, SHARING_NAMED_MAX).map(({ device }) => device) };
  },
  getRefusing: async (sql, rollout) => {
    const all = await sql.all<{ device: Id; code: string }>(
      `SELECT devices.id AS device, devices.attributes ->> 'refused' AS code FROM deployments
       JOIN devices ON devices.id = deployments.device
       WHERE rollout = :rollout AND deployments.state = 'offered' AND devices.attributes ->> 'refused' IS NOT NULL
       ORDER BY devices.id`,
      { rollout },
    );
    return { devices: all.length, named: all.slice(0, REFUSING_NAMED_MAX) };
  },
  // With the revision, so that a report that was read before is stepped again from the new deadline.
  extendDeadlines: async (sql, until) => {
    const late = await selectDeployments(sql, 'WHERE deadline_at < :until ORDER BY n', { until });
    return (
      await moveDeployments(
        sql,
        late.map((deployment) => ({ next: grantGrace(deployment, until) })),
      )
    ).size;
  },
  getOutcomeBins: async (sql, rollout, binMs) =>
    binsOf(await sql.all<Alike>(COUNTED, { rollout, binMs })).sort(inOrderOfBins),
} satisfies Partial<Methods>;

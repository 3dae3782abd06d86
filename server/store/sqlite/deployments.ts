import type { Attempts, DeploymentRecord, OutcomeBin } from '#server/domain/deployment/deployment.ts';
import { SHARED_MS, SHARING_NAMED_MAX } from '#server/domain/device/boots.ts';
import { REFUSING_NAMED_MAX } from '#server/domain/device/refusing.ts';
import type { DeploymentState, DeviceError } from '#shared/deployment.ts';
import type { Id } from '#shared/ids.ts';
import type { DeploymentCount } from '../rollouts.ts';
import { fromJson, idList, limitOf, type Sql, toJson } from './sql.ts';
import type { SyncStore } from './sync.ts';

type DeploymentRow = Omit<DeploymentRecord, 'error' | 'attempts' | 'reached' | 'graceUntil' | 'offers'> & {
  error: string | null;
  attempts: string | null;
  reached: DeploymentState | null;
  graceUntil: number | null;
  offers: number;
};
const COLUMNS = `id, rollout, device, cohort, compatible, wave, position, state, offered_at AS offeredAt,
  accepted_at AS acceptedAt, decided_at AS decidedAt, state_at AS stateAt, deadline_at AS deadlineAt, overdue, held_until AS heldUntil, error, attempts, reached,
  grace_until AS graceUntil, offers, revision`;
const toDeployment = ({ attempts, reached, graceUntil, offers, ...row }: DeploymentRow): DeploymentRecord => ({
  ...row,
  ...(reached === null ? {} : { reached }),
  ...(graceUntil === null ? {} : { graceUntil }),
  ...(offers > 1 ? { offers } : {}),
  ...(attempts === null ? {} : { attempts: fromJson<Attempts>(attempts) }),
  error: row.error === null ? null : fromJson<DeviceError>(row.error),
});

/** While a deployment is in one of these states it owns its device: nobody else may instruct it. */
export const OWNING_STATES: readonly DeploymentState[] = ['offered', 'fetching', 'installing', 'ready', 'trial'];

export const insertDeployment = (sql: Sql, deployment: DeploymentRecord): void => {
  sql.run(
    `INSERT INTO deployments (id, rollout, device, cohort, compatible, wave, position, state, offered_at, accepted_at,
       decided_at, state_at, deadline_at, overdue, held_until, error, revision)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    deployment.id,
    deployment.rollout,
    deployment.device,
    deployment.cohort,
    deployment.compatible,
    deployment.wave,
    deployment.position,
    deployment.state,
    deployment.offeredAt,
    deployment.acceptedAt,
    deployment.decidedAt,
    deployment.stateAt,
    deployment.deadlineAt,
    deployment.overdue,
    deployment.heldUntil,
    toJson(deployment.error),
    deployment.revision,
  );
};

/** Saves what changes in a deployment's life; 0 when its revision has moved. */
export const updateDeployment = (sql: Sql, next: DeploymentRecord): number =>
  sql.run(
    `UPDATE deployments SET state = ?, offered_at = ?, accepted_at = ?, decided_at = ?, state_at = ?, deadline_at = ?,
       overdue = ?, held_until = ?, error = ?, attempts = ?, reached = ?, withdrawn_by = NULL, revision = revision + 1
     WHERE id = ? AND revision = ?`,
    next.state,
    next.offeredAt,
    next.acceptedAt,
    next.decidedAt,
    next.stateAt,
    next.deadlineAt,
    next.overdue,
    next.heldUntil,
    toJson(next.error),
    toJson(next.attempts ?? null),
    next.reached ?? null,
    next.id,
    next.revision,
  );

export const readDeployments = (sql: Sql, ids: readonly Id[]): DeploymentRecord[] =>
  sql
    .all<DeploymentRow>(
      `SELECT ${COLUMNS} FROM deployments WHERE id IN (SELECT value FROM json_each(?)) ORDER BY n`,
      idList(ids),
    )
    .map(toDeployment);

/**
 * The definition is `countOutcomes` of domain/deployment.ts; the contract suite holds this query against it. CAST, because
 * numbers are bound as REAL, and dividing by one would give every millisecond a bin of its own.
 */
const OUTCOME_BINS = `
  WITH judged AS (
    SELECT cohort, compatible, wave, CASE
        WHEN state IN ('planned', 'skipped', 'withdrawn') THEN state
        WHEN state = 'committed' THEN 'healthy'
        WHEN state = 'overdue' AND overdue = 'never-heard' THEN 'never-heard'
        WHEN state IN ('reverted', 'failed', 'overdue') THEN 'failed'
        WHEN state = 'ready' AND held_until IS NOT NULL THEN 'installed'
        WHEN accepted_at IS NULL THEN 'unaccepted'
        ELSE 'undecided'
      END AS outcome, ifnull(accepted_at, offered_at) AS start, decided_at - accepted_at AS delay
    FROM deployments WHERE rollout = ?)
  SELECT cohort, compatible, wave, outcome,
    iif(outcome IN ('planned', 'skipped'), NULL, start / CAST(? AS INTEGER)) AS startBin,
    iif(outcome = 'healthy', max(0, delay / CAST(? AS INTEGER)), NULL) AS delayBins, count(*) AS devices
  FROM judged GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6`;

const numberOf = (sql: Sql, id: string): number | undefined =>
  sql.get<{ n: number }>('SELECT n FROM deployments WHERE id = ?', id)?.n;

export const deployments = (sql: Sql) => {
  const list: SyncStore['listDeployments'] = (filter, page) => {
    const after = page.after === undefined ? 0 : numberOf(sql, page.after);
    if (after === undefined) return [];
    const wanted: [string, Id | DeploymentState | undefined][] = [
      ['rollout = ?', filter.rollout],
      ['device = ?', filter.device],
      ['state = ?', filter.state],
    ];
    const given = wanted.flatMap(([condition, value]) => (value === undefined ? [] : [{ condition, value }]));
    return sql
      .all<DeploymentRow>(
        `SELECT ${COLUMNS} FROM deployments WHERE ${[...given.map((one) => one.condition), 'n > ?'].join(' AND ')}
         ORDER BY n LIMIT ?`,
        ...given.map((one) => one.value),
        after,
        limitOf(page.limit),
      )
      .map(toDeployment);
  };
  return {
    listDeployments: list,
    getDeployments: (ids) => readDeployments(sql, ids),
    listLate: (devices) =>
      sql
        .all<DeploymentRow>(
          `SELECT ${COLUMNS} FROM deployments
           WHERE device IN (SELECT value FROM json_each(?)) AND state = 'overdue' AND overdue <> 'never-heard'
             AND NOT EXISTS (SELECT 1 FROM deployments AS since
               WHERE since.device = deployments.device AND since.offered_at > deployments.offered_at)
           ORDER BY n`,
          idList(devices),
        )
        .map(toDeployment),
    countDeployments: (rollout) =>
      sql.all<DeploymentCount>(
        `SELECT wave, state, nullif(overdue, '') AS overdue, nullif(reached, '') AS reached, devices
         FROM deployment_counts WHERE rollout = ? AND devices <> 0
         ORDER BY wave, state, deployment_counts.overdue, deployment_counts.reached`,
        rollout,
      ),
    getCoolingDown: (rollout, now) => {
      const found = sql.get<{ devices: number; next: number | null }>(
        `SELECT count(*) AS devices, min(attempts ->> 'notBefore') AS next FROM deployments
         WHERE rollout = ? AND state = 'planned' AND attempts ->> 'notBefore' > ?`,
        rollout,
        now,
      );
      return found === undefined || found.next === null ? undefined : { devices: found.devices, next: found.next };
    },
    recountDeployments: (rollout) =>
      sql.all<DeploymentCount>(
        `SELECT wave, state, overdue, iif(overdue IS NULL, NULL, reached) AS reached, count(*) AS devices
         FROM deployments WHERE rollout = ? GROUP BY 1, 2, 3, 4
         ORDER BY wave, state, ifnull(overdue, ''), ifnull(reached, '')`,
        rollout,
      ),
    countUntouched: (rollout) =>
      sql.get<{ devices: number }>(
        `SELECT count(*) AS devices FROM deployments
         WHERE rollout = ? AND state IN ('planned', 'withdrawn', 'overdue') AND accepted_at IS NULL
           AND ifnull(attempts ->> 'failed', 0) = 0`,
        rollout,
      )?.devices ?? 0,
    getSharingKey: (rollout, now) => {
      const all = sql.all<{ device: Id }>(
        `SELECT devices.id AS device FROM deployments JOIN devices ON devices.id = deployments.device
         WHERE rollout = ? AND deployments.state = 'planned' AND key_shared_at > ? ORDER BY devices.id`,
        rollout,
        now - SHARED_MS,
      );
      return { devices: all.length, named: all.slice(0, SHARING_NAMED_MAX).map(({ device }) => device) };
    },
    getRefusing: (rollout) => {
      const all = sql.all<{ device: Id; code: string }>(
        `SELECT devices.id AS device, devices.attributes ->> 'refused' AS code FROM deployments
         JOIN devices ON devices.id = deployments.device
         WHERE rollout = ? AND deployments.state = 'offered' AND code IS NOT NULL ORDER BY devices.id`,
        rollout,
      );
      return { devices: all.length, named: all.slice(0, REFUSING_NAMED_MAX) };
    },
    // With the revision, so that a report that was read before is stepped again from the new deadline.
    extendDeadlines: (until) =>
      sql.run(
        'UPDATE deployments SET deadline_at = ?, grace_until = ?, revision = revision + 1 WHERE deadline_at < ?',
        until,
        until,
        until,
      ),
    getOutcomeBins: (rollout, binMs) => sql.all<OutcomeBin>(OUTCOME_BINS, rollout, binMs, binMs),
  } satisfies Partial<SyncStore>;
};

/** Devices that wait because they were told to: for a window, for a time, or for a command. */

import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { RolloutPlan } from '#server/domain/rollout/rollout.ts';
import type { Id } from '#shared/ids.ts';
import type { Instruction } from '#shared/messages.ts';
import { firstOpenAt, mayActivateAt, mayInstallAt } from '#shared/windows.ts';
import type { RolloutRecord, WindowRenewal } from '../rollouts.ts';
import { appendAudit } from './audit.ts';
import { insertDeployment } from './deployments.ts';
import { instruct } from './desired.ts';
import { blockersOf } from './priority.ts';
import { fromJson, idList, limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

const OFFERED = "deployments.state IN ('offered', 'fetching', 'installing', 'ready')";

type Told = { device: Id; deployment: Id; cohort: Id; zone: string; instruction: Instruction };
/** What the devices that act for this rollout were told, where `condition` holds and they have not activated. */
const toldBy = (sql: Sql, rollout: Id, condition: string, values: (string | number)[]): Told[] =>
  sql
    .all<Omit<Told, 'instruction'> & { instruction: string }>(
      `SELECT deployments.device, deployments.id AS deployment, cohort, ifnull(attributes ->> '$.timezone', '') AS zone,
         instruction
       FROM deployments JOIN devices ON devices.id = deployments.device AND devices.deployment = deployments.id
         JOIN desired ON desired.device = deployments.device
       WHERE rollout = ? AND ${OFFERED} AND instruction ->> '$.deployment' = deployments.id AND ${condition}`,
      rollout,
      ...values,
    )
    .map((row) => ({ ...row, instruction: fromJson<Instruction>(row.instruction) }));

/** Ends a wait: what is installed is at risk from now on, and has its whole time before it. */
const release = (sql: Sql, rollout: Id, now: number, withinMs: number): number =>
  sql.run(
    `UPDATE deployments SET held_until = NULL, revision = revision + 1,
       accepted_at = iif(state = 'ready', ?, accepted_at), deadline_at = iif(state = 'ready', ?, deadline_at)
     WHERE rollout = ? AND held_until <= ?`,
    now,
    now + withinMs,
    rollout,
    now,
  );

/** Everybody may activate: instructions are made anew without their wait. Within the caller's transaction. */
export const letActivate = (sql: Sql, rollout: Id, now: number): void => {
  const told = toldBy(sql, rollout, "json_type(instruction, '$.activateAt') IS NOT NULL", []);
  instruct(
    sql,
    told.map(({ device, instruction }) => {
      if (instruction.kind !== 'install') return { device, instruction };
      const { activateAt: _, ...rest } = instruction;
      return { device, instruction: rest };
    }),
    now,
  );
  for (const { deployment, instruction } of told) {
    const windows = instruction.kind === 'install' ? instruction.windows : undefined;
    sql.run(
      "UPDATE deployments SET held_until = ?, revision = revision + 1 WHERE id = ? AND state = 'ready'",
      firstOpenAt(windows, now) ?? now,
      deployment,
    );
  }
};

/** False when the rollout has changed since it was read. */
export const joinRollout = (
  sql: Sql,
  rollout: RolloutRecord,
  joined: readonly DeploymentRecord[],
  now: number,
): boolean => {
  const { id, waveSizes } = rollout.plan;
  const sizes = waveSizes.map((size, wave) => size + joined.filter((one) => one.wave === wave).length);
  const saved = sql.run(
    `UPDATE rollouts SET plan = json_set(plan, '$.waveSizes', json(?)), revision = revision + 1, next_tick_at = ?
     WHERE id = ? AND revision = ?`,
    JSON.stringify(sizes),
    Math.min(now, rollout.nextTickAt ?? now),
    id,
    rollout.revision,
  );
  if (saved === 0) return false;
  for (const deployment of joined) insertDeployment(sql, deployment);
  return true;
};

export const timing = (sql: Sql) =>
  ({
    listOutside: (rollout, devices) =>
      sql
        .all<{ id: Id }>(
          `SELECT value AS id FROM json_each(?)
           WHERE NOT EXISTS (SELECT 1 FROM deployments WHERE rollout = ? AND device = value)`,
          idList(devices),
          rollout,
        )
        .map(({ id }) => id),
    addDeployments: (rollout, joined, audit, now) => {
      if (!joinRollout(sql, rollout, joined, now)) return 'conflict';
      appendAudit(sql, audit);
      return 'added';
    },
    listBlockers: (rollout, shut) => blockersOf(sql, rollout, shut),
    listRunningAbove: (rollout) =>
      sql
        .all<{ plan: string }>(
          `SELECT plan FROM rollouts AS above WHERE above.state = 'running'
             AND above.priority > (SELECT priority FROM rollouts WHERE id = ?) LIMIT 1000`,
          rollout,
        )
        .map(({ plan }) => fromJson<RolloutPlan>(plan)),
    listTimeZones: (rollout, who = 'planned') =>
      sql.all<{ cohort: Id; zone: string }>(
        `SELECT DISTINCT cohort, ifnull(attributes ->> '$.timezone', '') AS zone
         FROM deployments CROSS JOIN devices ON devices.id = device
         WHERE rollout = ? AND (deployments.state = 'planned' OR ?) ORDER BY 1, 2 LIMIT 10000`,
        rollout,
        who === 'all' ? 1 : 0,
      ),
    releaseHeld: (rollout, now, withinMs) => release(sql, rollout, now, withinMs),
    listOutOfWindows: (rollout, now, limit) =>
      toldBy(sql, rollout, `${OUTDATED} ORDER BY deployments.n LIMIT ?`, [now, limitOf(limit)]).map(
        ({ deployment, cohort, zone }) => ({ deployment, cohort, zone }),
      ),
    renewWindows: (renewals, now) => {
      const instructions = renewals.flatMap((renewal) => renewed(sql, renewal, now));
      instruct(sql, instructions, now);
    },
  }) satisfies Partial<SyncStore>;

/** The windows that a device was told are past, or those of a time zone that it has left. */
const OUTDATED = `(instruction ->> '$.windows[#-1].closes' <= ?
  OR (json_type(instruction, '$.windows') IS NOT NULL
    AND ifnull(instruction ->> '$.zone', '') <> ifnull(attributes ->> '$.timezone', '')))`;

/** Nothing where the device was told something else since. A wait that the server reckons with moves too, and its deadline with it. */
const renewed = (
  sql: Sql,
  { deployment, windows, zone }: WindowRenewal,
  now: number,
): { device: Id; instruction: Instruction }[] => {
  const row = sql.get<{ device: Id; instruction: string; state: string }>(
    `SELECT desired.device, instruction, deployments.state FROM desired JOIN deployments ON deployments.device = desired.device
     WHERE deployments.id = ? AND ${OFFERED} AND instruction ->> '$.deployment' = deployments.id`,
    deployment,
  );
  if (row === undefined) return [];
  const instruction = fromJson<Instruction>(row.instruction);
  if (instruction.kind !== 'install') return [];
  const { zone: _, ...rest } = instruction;
  const next = { ...rest, windows, ...(zone === '' ? {} : { zone }) };
  const heldUntil = row.state === 'ready' ? mayActivateAt(next, now) : mayInstallAt(next, now);
  if (heldUntil !== undefined)
    sql.run(
      `UPDATE deployments SET deadline_at = deadline_at + ? - held_until, held_until = ?, revision = revision + 1
       WHERE id = ? AND held_until IS NOT NULL AND held_until <> ?`,
      heldUntil,
      heldUntil,
      deployment,
      heldUntil,
    );
  return [{ device: row.device, instruction: next }];
};

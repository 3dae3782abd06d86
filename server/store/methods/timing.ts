/** Devices that wait because they were told to: for a window, for a time, or for a command. */
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { NOT_ACTIVATED } from '#server/domain/deployment/deployment.ts';
import { endWait, waitUntil } from '#server/domain/deployment/waits.ts';
import type { RolloutPlan } from '#server/domain/rollout/rollout.ts';
import type { Id } from '#shared/ids.ts';
import type { Instruction } from '#shared/messages.ts';
import { firstOpenAt, mayActivateAt, mayInstallAt } from '#shared/windows.ts';
import type { RolloutRecord, WindowRenewal } from '../rollouts.ts';
import { fromJson, idList, limitOf, type Sql, type Values } from '../sql.ts';
import { appendAudit } from './audit.ts';
import {
  type DeploymentRow,
  deploymentColumns,
  insertDeployments,
  moveDeployments,
  selectDeployments,
  toDeployment,
} from './deployments.ts';
import { instruct } from './desired.ts';
import type { Methods } from './methods.ts';
import { blockersOf } from './priority.ts';

type Install = Extract<Instruction, { kind: 'install' }>;
type Told = { deployment: DeploymentRecord; zone: string; instruction: Install };
/** What the devices that have not activated were told by the deployment that owns them, where `condition` holds. */
const selectTold = async (sql: Sql, condition: string, values: Values): Promise<Told[]> => {
  const rows = await sql.all<DeploymentRow & { zone: string; instruction: string }>(
    `SELECT ${deploymentColumns('deployments')}, coalesce(attributes ->> 'timezone', '') AS zone, instruction
     FROM deployments JOIN devices ON devices.id = deployments.device AND devices.deployment = deployments.id
       JOIN desired ON desired.device = deployments.device
     WHERE deployments.state IN (${sql.dialect.list('notActivated')}) AND instruction ->> 'deployment' = deployments.id
       AND instruction ->> 'kind' = 'install' AND ${condition}`,
    { ...values, notActivated: idList(NOT_ACTIVATED) },
  );
  return rows.map((row) => ({
    deployment: toDeployment(row),
    zone: row.zone,
    instruction: fromJson<Install>(row.instruction),
  }));
};

const moveEach = async (sql: Sql, nexts: readonly (DeploymentRecord | undefined)[]): Promise<number> => {
  const moves = nexts.flatMap((next) => (next === undefined ? [] : [{ next }]));
  return (await moveDeployments(sql, moves)).size;
};

/** All may activate: instructions are made again without their wait. Within the caller's transaction. */
export const letActivate = async (sql: Sql, rollout: Id, now: number): Promise<void> => {
  const told = await selectTold(sql, "rollout = :rollout AND instruction -> 'activateAt' IS NOT NULL", { rollout });
  await instruct(
    sql,
    told.map(({ deployment, instruction }) => {
      const { activateAt: _, ...rest } = instruction;
      return { device: deployment.device, instruction: rest };
    }),
    now,
  );
  const installed = told.filter(({ deployment }) => deployment.state === 'ready');
  await moveEach(
    sql,
    installed.map(({ deployment, instruction }) => ({
      ...deployment,
      heldUntil: firstOpenAt(instruction.windows, now) ?? now,
    })),
  );
};

/** False when the rollout has changed since it was read. */
export const joinRollout = async (
  sql: Sql,
  { plan, nextTickAt, revision }: RolloutRecord,
  joined: readonly DeploymentRecord[],
  now: number,
): Promise<boolean> => {
  const waveSizes = plan.waveSizes.map((size, wave) => size + joined.filter((one) => one.wave === wave).length);
  const saved = await sql.run(
    `UPDATE rollouts SET plan = :plan, revision = revision + 1, next_tick_at = :nextTickAt
     WHERE id = :id AND revision = :revision`,
    {
      id: plan.id,
      plan: JSON.stringify({ ...plan, waveSizes }),
      nextTickAt: Math.min(now, nextTickAt ?? now),
      revision,
    },
  );
  if (saved === 0) return false;
  await insertDeployments(sql, joined);
  return true;
};

/** The windows that a device was told are past, or those of a time zone that it has left. */
const OUTDATED = `(CAST(instruction -> 'windows' -> -1 ->> 'closes' AS BIGINT) <= :now
  OR (instruction -> 'windows' IS NOT NULL
    AND coalesce(instruction ->> 'zone', '') <> coalesce(attributes ->> 'timezone', '')))`;

/** What it is told instead, and its deployment where it waits for something else now. */
const renew = ({ deployment, instruction: told }: Told, renewal: WindowRenewal, now: number) => {
  const { zone: _, ...rest } = told;
  const { windows, zone } = renewal;
  const instruction = { ...rest, windows, ...(zone === '' ? {} : { zone }) };
  const heldUntil = deployment.state === 'ready' ? mayActivateAt(instruction, now) : mayInstallAt(instruction, now);
  return { instruction, next: heldUntil === undefined ? undefined : waitUntil(deployment, heldUntil) };
};

export const timing = {
  listOutside: async (sql, rollout, devices) => {
    const rows = await sql.all<{ id: Id }>(
      `SELECT value AS id FROM (${sql.dialect.list('devices')}) AS given
       WHERE NOT EXISTS (SELECT 1 FROM deployments WHERE rollout = :rollout AND device = value)`,
      { devices: idList(devices), rollout },
    );
    return rows.map(({ id }) => id);
  },
  addDeployments: async (sql, rollout, joined, audit, now) => {
    if (!(await joinRollout(sql, rollout, joined, now))) return 'conflict';
    await appendAudit(sql, audit);
    return 'added';
  },
  listBlockers: blockersOf,
  listRunningAbove: async (sql, rollout) => {
    const rows = await sql.all<{ plan: string }>(
      `SELECT plan FROM rollouts AS above WHERE above.state = 'running'
         AND above.priority > (SELECT priority FROM rollouts WHERE id = :rollout) LIMIT 1000`,
      { rollout },
    );
    return rows.map(({ plan }) => fromJson<RolloutPlan>(plan));
  },
  listTimeZones: (sql, rollout, who = 'planned') =>
    sql.all<{ cohort: Id; zone: string }>(
      `SELECT DISTINCT cohort, coalesce(attributes ->> 'timezone', '') AS zone FROM deployments CROSS JOIN devices
       WHERE devices.id = deployments.device AND rollout = :rollout AND (deployments.state = 'planned' OR :who = 'all')
       ORDER BY 1, 2 LIMIT 10000`,
      { rollout, who },
    ),
  endWaits: async (sql, rollout, now, withinMs) => {
    const held = await selectDeployments(sql, 'WHERE rollout = :rollout AND held_until <= :now ORDER BY n', {
      rollout,
      now,
    });
    return moveEach(
      sql,
      held.map((deployment) => endWait(deployment, now, withinMs)),
    );
  },
  listOutOfWindows: async (sql, rollout, now, limit) => {
    const told = await selectTold(sql, `rollout = :rollout AND ${OUTDATED} ORDER BY deployments.n LIMIT :limit`, {
      rollout,
      now,
      limit: limitOf(limit),
    });
    return told.map(({ deployment, zone }) => ({ deployment: deployment.id, cohort: deployment.cohort, zone }));
  },
  renewWindows: async (sql, renewals, now) => {
    const ids = idList(renewals.map(({ deployment }) => deployment));
    const told = await selectTold(sql, `deployments.id IN (${sql.dialect.list('ids')})`, { ids });
    const known = new Map(told.map((one) => [one.deployment.id, one]));
    // Not where the device was told something else since.
    const renewed = renewals.flatMap((renewal) => {
      const one = known.get(renewal.deployment);
      return one === undefined ? [] : [{ device: one.deployment.device, ...renew(one, renewal, now) }];
    });
    await moveEach(
      sql,
      renewed.map(({ next }) => next),
    );
    await instruct(sql, renewed, now);
  },
} satisfies Partial<Methods>;

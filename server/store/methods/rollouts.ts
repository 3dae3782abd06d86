import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { RolloutPlan, RolloutState } from '#server/domain/rollout/rollout.ts';
import type { Id, Sha256 } from '#shared/ids.ts';
import type { RolloutRecord } from '../rollouts.ts';
import { fromJson, limitOf, type Sql, type Values } from '../sql.ts';
import { appendAudit, sizeOfAudit } from './audit.ts';
import { insertCohort } from './cohorts.ts';
import { keepDecision } from './decisions.ts';
import { insertDeployments } from './deployments.ts';
import type { Methods } from './methods.ts';
import { giveUpOverdue, replanHalted, withdrawOffers, withdrawShutOut } from './moves.ts';
import { makeOffer } from './offers.ts';
import { letActivate } from './timing.ts';

export type RolloutRow = {
  plan: string;
  progress: string;
  nextTickAt: number | null;
  revision: number;
  decided: Sha256 | null;
};
const OPEN_MAX = 1_000;
export const ROLLOUT_COLUMNS = 'plan, progress, next_tick_at AS "nextTickAt", revision, decided';
export const toRollout = ({ decided, ...row }: RolloutRow): RolloutRecord => ({
  ...row,
  ...(decided === null ? {} : { decided }),
  plan: fromJson<RolloutPlan>(row.plan),
  progress: fromJson<RolloutState>(row.progress),
});
/** `rest`: everything behind `FROM rollouts`. */
const selectRollouts = async (sql: Sql, rest: string, values: Values = {}): Promise<RolloutRecord[]> =>
  (await sql.all<RolloutRow>(`SELECT ${ROLLOUT_COLUMNS} FROM rollouts ${rest}`, values)).map(toRollout);

/**
 * Reports may have come in since the decision to rest was made: while a deployment has a deadline, the rollout that
 * keeps it stays due.
 */
const tickAtDeadline = async (sql: Sql, rollout: Id): Promise<void> => {
  await sql.run(
    `UPDATE rollouts SET next_tick_at =
       (SELECT min(deadline_at) FROM deployments WHERE rollout = :rollout AND deadline_at IS NOT NULL) WHERE id = :rollout`,
    { rollout },
  );
};

export const insertRollout = async (
  sql: Sql,
  { plan, progress, nextTickAt, revision }: RolloutRecord,
  deployments: readonly DeploymentRecord[],
): Promise<void> => {
  await sql.run(
    `INSERT INTO rollouts (id, plan, progress, next_tick_at, revision)
     VALUES (:id, :plan, :progress, :nextTickAt, :revision)`,
    { id: plan.id, plan: JSON.stringify(plan), progress: JSON.stringify(progress), nextTickAt, revision },
  );
  await insertDeployments(sql, deployments);
};

type SaveRollout = Parameters<Methods['saveRollout']>[1];
/** False when the rollout has changed since it was read. */
const updateRollout = async (sql: Sql, { rollout, activate, now }: SaveRollout): Promise<boolean> => {
  const { plan, progress, nextTickAt, revision } = rollout;
  const saved = await sql.run(
    `UPDATE rollouts SET plan = coalesce(:plan, plan), progress = :progress, next_tick_at = :nextTickAt, revision = revision + 1
     WHERE id = :id AND revision = :revision`,
    {
      id: plan.id,
      plan: activate === true ? JSON.stringify({ ...plan, activatedAt: now }) : null,
      progress: JSON.stringify(progress),
      nextTickAt,
      revision,
    },
  );
  return saved === 1;
};

export const rollouts = {
  createRollout: async (sql, rollout, deployments, audit) => {
    await insertRollout(sql, rollout, deployments);
    await appendAudit(sql, audit);
    await withdrawShutOut(sql, rollout.plan.id, rollout.plan.createdAt);
  },
  createRollouts: async (sql, planned, audit) => {
    for (const { cohort, rollout, deployments } of planned) {
      await insertCohort(sql, cohort);
      await insertRollout(sql, rollout, deployments);
    }
    await appendAudit(sql, audit);
    for (const { rollout } of planned) await withdrawShutOut(sql, rollout.plan.id, rollout.plan.createdAt);
  },
  getRollout: async (sql, id) => (await selectRollouts(sql, 'WHERE id = :id', { id }))[0],
  listRollouts: (sql, page) =>
    selectRollouts(
      sql,
      `WHERE :after IS NULL OR n < (SELECT n FROM rollouts WHERE id = :after) ORDER BY n DESC LIMIT :limit`,
      { after: page.after ?? null, limit: limitOf(page.limit) },
    ),
  listRolloutsOf: (sql, product, version) =>
    selectRollouts(
      sql,
      `WHERE plan ->> 'product' = :product AND plan ->> 'version' = :version ORDER BY n DESC LIMIT 1000`,
      { product, version },
    ),
  listOpenRollouts: (sql) =>
    selectRollouts(sql, `WHERE state NOT IN ('completed', 'aborted') ORDER BY priority DESC, n LIMIT ${OPEN_MAX}`),
  listDueRollouts: (sql, now, limit) =>
    selectRollouts(sql, 'WHERE next_tick_at <= :now ORDER BY next_tick_at, n LIMIT :limit', {
      now,
      limit: limitOf(limit),
    }),
  markOverdue: giveUpOverdue,
  saveRollout: async (sql, save) => {
    const { rollout, offers, withdraw, replan, activate, decision, audit, now } = save;
    const { id } = rollout.plan;
    const auditFrom = await sizeOfAudit(sql);
    if (!(await updateRollout(sql, save))) return { result: 'conflict' };
    if (activate === true) await letActivate(sql, id, now);
    await appendAudit(sql, audit);
    const withdrawn = withdraw === null ? [] : await withdrawOffers(sql, id, withdraw, now);
    if (replan) await replanHalted(sql, id, now);
    const offered: DeploymentRecord[] = [];
    const skipped: DeploymentRecord[] = [];
    for (const request of offers) {
      const made = await makeOffer(sql, { rollout: id, request, now });
      offered.push(...made.offered);
      skipped.push(...made.skipped);
    }
    if (rollout.nextTickAt === null) await tickAtDeadline(sql, id);
    if (decision !== undefined) {
      const effect = {
        asked: offers.reduce((sum, { atMost }) => sum + atMost, 0),
        offered: offered.length,
        skipped: skipped.length,
        withdrawn: withdrawn.length,
        shutAbove: offers[0]?.shutAbove ?? [],
      };
      await keepDecision(sql, id, decision, effect, auditFrom);
    }
    const idsOf = (deployments: readonly DeploymentRecord[]): Id[] => deployments.map((deployment) => deployment.id);
    return { result: 'saved', offered: idsOf(offered), withdrawn: idsOf(withdrawn), skipped: idsOf(skipped) };
  },
} satisfies Partial<Methods>;

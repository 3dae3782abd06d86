import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { RolloutPlan, RolloutState } from '#server/domain/rollout/rollout.ts';
import type { Id, Sha256 } from '#shared/ids.ts';
import type { RolloutRecord } from '../rollouts.ts';
import { appendAudit, sizeOfAudit } from './audit.ts';
import { insertCohort } from './cohorts.ts';
import { keepDecision } from './decisions.ts';
import { insertDeployment } from './deployments.ts';
import { makeOffer, markOverdue, replanHalted, withdrawOffers, withdrawShutOut } from './offers.ts';
import { fromJson, limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';
import { letActivate } from './timing.ts';

type RolloutRow = {
  plan: string;
  progress: string;
  nextTickAt: number | null;
  revision: number;
  decided: Sha256 | null;
};
const OPEN_MAX = 1_000;
const COLUMNS = 'plan, progress, next_tick_at AS nextTickAt, revision, decided';
const toRollout = ({ decided, ...row }: RolloutRow): RolloutRecord => ({
  ...row,
  ...(decided === null ? {} : { decided }),
  plan: fromJson<RolloutPlan>(row.plan),
  progress: fromJson<RolloutState>(row.progress),
});

/** Reports may have come in since the decision to rest was made: while a deployment has a deadline, the rollout that keeps it stays due. */
const tickAtDeadline = (sql: Sql, rollout: Id): void => {
  sql.run(
    `UPDATE rollouts SET next_tick_at =
       (SELECT min(deadline_at) FROM deployments WHERE rollout = ? AND deadline_at IS NOT NULL) WHERE id = ?`,
    rollout,
    rollout,
  );
};

export const insertRollout = (sql: Sql, rollout: RolloutRecord, deployments: readonly DeploymentRecord[]): void => {
  sql.run(
    'INSERT INTO rollouts (id, plan, progress, next_tick_at, revision) VALUES (?, ?, ?, ?, ?)',
    rollout.plan.id,
    JSON.stringify(rollout.plan),
    JSON.stringify(rollout.progress),
    rollout.nextTickAt,
    rollout.revision,
  );
  for (const deployment of deployments) insertDeployment(sql, deployment);
};

export const rollouts = (sql: Sql) =>
  ({
    createRollout: (rollout, deployments, audit) => {
      insertRollout(sql, rollout, deployments);
      appendAudit(sql, audit);
      withdrawShutOut(sql, rollout.plan.id, rollout.plan.createdAt);
    },
    createRollouts: (planned, audit) => {
      for (const { cohort, rollout, deployments } of planned) {
        insertCohort(sql, cohort);
        insertRollout(sql, rollout, deployments);
      }
      appendAudit(sql, audit);
      for (const { rollout } of planned) withdrawShutOut(sql, rollout.plan.id, rollout.plan.createdAt);
    },
    getRollout: (id) => {
      const row = sql.get<RolloutRow>(`SELECT ${COLUMNS} FROM rollouts WHERE id = ?`, id);
      return row && toRollout(row);
    },
    listRollouts: (page) =>
      sql
        .all<RolloutRow>(
          `SELECT ${COLUMNS} FROM rollouts WHERE ? IS NULL OR n < (SELECT n FROM rollouts WHERE id = ?)
           ORDER BY n DESC LIMIT ?`,
          page.after ?? null,
          page.after ?? null,
          limitOf(page.limit),
        )
        .map(toRollout),
    listRolloutsOf: (product, version) =>
      sql
        .all<RolloutRow>(
          `SELECT ${COLUMNS} FROM rollouts WHERE plan ->> 'product' = ? AND plan ->> 'version' = ?
           ORDER BY n DESC LIMIT 1000`,
          product,
          version,
        )
        .map(toRollout),
    listOpenRollouts: () =>
      sql
        .all<RolloutRow>(
          `SELECT ${COLUMNS} FROM rollouts WHERE state NOT IN ('completed', 'aborted')
           ORDER BY priority DESC, n LIMIT ${OPEN_MAX}`,
        )
        .map(toRollout),
    listDueRollouts: (now, limit) =>
      sql
        .all<RolloutRow>(
          `SELECT ${COLUMNS} FROM rollouts WHERE next_tick_at <= ? ORDER BY next_tick_at, n LIMIT ?`,
          now,
          limitOf(limit),
        )
        .map(toRollout),
    markOverdue: (rollout, now, limit, stamp) => markOverdue(sql, rollout, now, limit, stamp),
    saveRollout: ({ rollout, offers, withdraw, replan, activate, decision, audit, now }) => {
      const { id } = rollout.plan;
      const auditFrom = sizeOfAudit(sql);
      const saved = sql.run(
        'UPDATE rollouts SET progress = ?, next_tick_at = ?, revision = revision + 1 WHERE id = ? AND revision = ?',
        JSON.stringify(rollout.progress),
        rollout.nextTickAt,
        id,
        rollout.revision,
      );
      if (saved === 0) return { result: 'conflict' };
      if (activate === true) {
        sql.run("UPDATE rollouts SET plan = json_set(plan, '$.activatedAt', CAST(? AS INTEGER)) WHERE id = ?", now, id);
        letActivate(sql, id, now);
      }
      appendAudit(sql, audit);
      const withdrawn = withdraw === null ? [] : withdrawOffers(sql, id, withdraw, now);
      if (replan) replanHalted(sql, id, now);
      const made = offers.map((offer) => makeOffer(sql, id, offer, now));
      if (rollout.nextTickAt === null) tickAtDeadline(sql, id);
      if (decision !== undefined) {
        const effect = {
          asked: offers.reduce((sum, { atMost }) => sum + atMost, 0),
          offered: made.reduce((sum, { offered }) => sum + offered.length, 0),
          skipped: made.reduce((sum, { skipped }) => sum + skipped.length, 0),
          withdrawn: withdrawn.length,
          shutAbove: offers[0]?.shutAbove ?? [],
        };
        keepDecision(sql, id, decision, effect, auditFrom);
      }
      const idsOf = (journeys: readonly { id: Id }[]): Id[] => journeys.map((journey) => journey.id);
      return {
        result: 'saved',
        offered: idsOf(made.flatMap(({ offered }) => offered)),
        withdrawn: idsOf(withdrawn),
        skipped: idsOf(made.flatMap(({ skipped }) => skipped)),
      };
    },
  }) satisfies Partial<SyncStore>;

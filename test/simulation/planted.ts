/** The planted bugs that live between a flow and its store: what is handed over is changed, or what was done is undone. */
import { parseAuditEvent } from '#server/domain/audit.ts';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import { OWNING_STATES } from '#server/store/sqlite/deployments.ts';
import type { Sql } from '#server/store/sqlite/sql.ts';
import type { SyncStore } from '#server/store/sqlite/sync.ts';
import type { Id } from '#shared/ids.ts';
import type { Process } from './time.ts';
import type { World } from './world.ts';

export type Planted = {
  args: unknown[];
  instead?: () => Promise<unknown>;
  /** In the same transaction, as far as anybody can see. */
  after?: () => void;
  answer?: unknown;
};
type Deps = { world: World; sync: SyncStore; sql: Sql; process: Process };
type Save = Parameters<SyncStore['saveRollout']>[0];
type Reports = Parameters<SyncStore['saveReports']>[0];

export const plantedIn = (deps: Deps, name: string, args: unknown[]): Planted => {
  const { bug } = deps.world.options;
  if (bug === undefined) return { args };
  switch (name) {
    case 'saveRollout':
      return inSave(deps, args[0] as Save);
    case 'saveReports':
      return inReports(deps, args[0] as Reports);
    case 'saveHeartbeats':
      return bug === 'drift-overlooked' ? { args, after: () => forgetDrift(deps.sql) } : { args };
    case 'createRollout':
      return bug === 'approval-not-needed'
        ? { args: [approved(args[0] as RolloutRecord), ...args.slice(1)] }
        : { args };
    case 'listRecallable':
      if (bug === 'recall-forgets-one')
        return {
          args,
          answer: deps.sync.listRecallable(...(args as Parameters<SyncStore['listRecallable']>)).slice(1),
        };
      return bug === 'recalls-everybody' ? { args, answer: everybody(deps.sync, args[0] as Id) } : { args };
    case 'listOutside':
      return bug === 'joins-twice' ? { args, answer: args[1] } : { args };
    case 'listSuspects':
      return bug === 'watch-skipped' ? { args, answer: [] } : { args };
    default:
      return { args };
  }
};

const inSave = ({ world, sync, sql }: Deps, save: Save): Planted => {
  const withOffers = (change: (offer: Save['offers'][number]) => Save['offers'][number]): Planted => ({
    args: [{ ...save, offers: save.offers.map(change) }],
  });
  switch (world.options.bug) {
    case 'revision-not-checked': {
      const revision = sync.getRollout(save.rollout.plan.id)?.revision ?? save.rollout.revision;
      return { args: [{ ...save, rollout: { ...save.rollout, revision } }] };
    }
    case 'more-than-allowed':
      return withOffers((offer) => ({ ...offer, atMost: offer.atMost * 3 + 2 }));
    case 'withdrawal-lost':
      return { args: [{ ...save, withdraw: null }] };
    case 'window-ignored':
      return withOffers((offer) => without(offer, 'zones'));
    case 'activates-early':
      return withOffers((offer) => ({ ...offer, instruction: without(offer.instruction, 'activateAt') }));
    case 'takeover-keeps-both': {
      const before = owning(sync);
      return { args: [save], after: () => giveBack(sql, sync, before, save.rollout.plan.id) };
    }
    default:
      return { args: [save] };
  }
};

const without = <T extends object, K extends keyof T>(whole: T, name: K): Omit<T, K> => {
  const { [name]: left, ...rest } = whole;
  void left;
  return rest;
};

const owning = (sync: SyncStore): DeploymentRecord[] =>
  sync
    .listRollouts({ limit: 1_000 })
    .flatMap(({ plan }) => sync.listDeployments({ rollout: plan.id }, { limit: 1_000 }))
    .filter(({ state }) => OWNING_STATES.includes(state));

/** Whom another rollout has taken over stays where it was too. */
const giveBack = (sql: Sql, sync: SyncStore, before: DeploymentRecord[], rollout: string): void => {
  for (const { id, state, rollout: theirs } of before)
    if (theirs !== rollout && sync.getDeployments([id])[0]?.state === 'planned')
      sql.run('UPDATE deployments SET state = ?, revision = revision + 1 WHERE id = ?', state, id);
};

const forgetDrift = (sql: Sql): void => {
  sql.run('UPDATE devices SET drifted_at = NULL');
};

/** Those too who never ran the release; once, since this forgets who has been decided on. */
const everybody = (sync: SyncStore, rollout: Id): ReturnType<SyncStore['listRecallable']> => {
  if (sync.listRecalls(rollout).length > 0) return [];
  return sync.listDeployments({ rollout }, { limit: 1_000 }).map(({ device, cohort, compatible }) => {
    const { running = null, floor = 0 } = sync.getDevice(device) ?? {};
    return { device, cohort, compatible, state: 'committed', before: running, floor, isLetIn: true };
  });
};

const isNoReceipt = ({ payload }: { payload: string }): boolean => parseAuditEvent(payload)?.kind !== 'receipt';

const approved = (record: RolloutRecord): RolloutRecord => {
  const { progress } = record;
  if (progress.state !== 'awaiting-approval') return record;
  return { ...record, progress: { state: 'scheduled', startAt: progress.startAt }, nextTickAt: progress.startAt };
};

const inReports = ({ world, sync, sql, process }: Deps, reports: Reports): Planted => {
  const withDeployments = (change: (row: DeploymentRecord) => DeploymentRecord): Planted => ({
    args: [reports.map((report) => ({ ...report, deployments: report.deployments.map(change) }))],
  });
  switch (world.options.bug) {
    case 'acknowledged-before-commit':
      return {
        args: [reports],
        instead: async () => {
          world.time.at(50, process, () => sync.saveReports(reports));
          return { conflicts: [] };
        },
      };
    case 'receipt-not-needed':
      return withDeployments((row) =>
        row.state === 'trial' ? { ...row, state: 'committed', decidedAt: row.stateAt, deadlineAt: null } : row,
      );
    // Of a receipt that comes after what it says was believed already.
    case 'receipt-dropped':
      return {
        args: [
          reports.map((one) => (one.deployments.length > 0 ? one : { ...one, audit: one.audit.filter(isNoReceipt) })),
        ],
      };
    case 'retry-without-cool-down':
      return withDeployments((row) =>
        row.attempts === undefined ? row : { ...row, attempts: { ...row.attempts, notBefore: null } },
      );
    case 'drift-overlooked':
      return { args: [reports], after: () => forgetDrift(sql) };
    default:
      return { args: [reports] };
  }
};

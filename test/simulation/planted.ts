/**
 * The planted bugs that live between a flow and its store: what is handed over is changed, or what was done is undone.
 */

import type Database from 'better-sqlite3';
import { parseAuditEvent } from '#server/domain/audit.ts';
import { type DeploymentRecord, owns } from '#server/domain/deployment/deployment.ts';
import type { Recallable } from '#server/domain/rollout/recall.ts';
import type { StoreMethods } from '#server/store/methods/methods.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Id } from '#shared/ids.ts';
import type { Rows } from './rows.ts';
import type { Process } from './time.ts';
import type { World } from './world.ts';

export type Planted = {
  args: unknown[];
  instead?: () => Promise<unknown>;
  /** In the same transaction, as far as anyone can see. */
  after?: () => void;
  answer?: () => Promise<unknown>;
};
type Deps = { world: World; methods: StoreMethods; rows: Rows; database: Database.Database; process: Process };
type Save = Parameters<StoreMethods['saveRollout']>[0];
type Reports = Parameters<StoreMethods['saveReports']>[0];

export const plantedIn = (deps: Deps, name: string, args: unknown[]): Planted => {
  const { bug } = deps.world.options;
  if (bug === undefined) return { args };
  switch (name) {
    case 'saveRollout':
      return inSave(deps, args[0] as Save);
    case 'saveReports':
      return inReports(deps, args[0] as Reports);
    case 'saveHeartbeats':
      return bug === 'drift-overlooked' ? { args, after: () => forgetDrift(deps.database) } : { args };
    case 'createRollout':
      return bug === 'approval-not-needed'
        ? { args: [approved(args[0] as RolloutRecord), ...args.slice(1)] }
        : { args };
    case 'listRecallable':
      if (bug === 'recall-forgets-one')
        return {
          args,
          answer: async () =>
            (await deps.methods.listRecallable(...(args as Parameters<StoreMethods['listRecallable']>))).slice(1),
        };
      return bug === 'recalls-everyone' ? { args, answer: async () => everybody(deps.rows, args[0] as Id) } : { args };
    case 'listOutside':
      return bug === 'joins-twice' ? { args, answer: async () => args[1] } : { args };
    case 'listSuspects':
      return bug === 'watch-skipped' ? { args, answer: async () => [] } : { args };
    default:
      return { args };
  }
};

const inSave = ({ world, rows, database }: Deps, save: Save): Planted => {
  const withOffers = (change: (offer: Save['offers'][number]) => Save['offers'][number]): Planted => ({
    args: [{ ...save, offers: save.offers.map(change) }],
  });
  switch (world.options.bug) {
    case 'revision-not-checked': {
      const revision = rows.rollout(save.rollout.plan.id)?.revision ?? save.rollout.revision;
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
      const before = owning(rows);
      return { args: [save], after: () => giveBack(database, rows, before, save.rollout.plan.id) };
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

const owning = (rows: Rows): DeploymentRecord[] =>
  rows
    .rollouts()
    .flatMap(({ plan }) => rows.deployments({ rollout: plan.id }))
    .filter(owns);

/** Whom another rollout has taken over stays where it was too. */
const giveBack = (database: Database.Database, rows: Rows, before: DeploymentRecord[], rollout: string): void => {
  for (const { id, state, rollout: theirs } of before)
    if (theirs !== rollout && rows.deployments({ ids: [id] })[0]?.state === 'planned')
      database.prepare('UPDATE deployments SET state = ?, revision = revision + 1 WHERE id = ?').run(state, id);
};

const forgetDrift = (database: Database.Database): void => {
  database.exec('UPDATE devices SET drifted_at = NULL');
};

/** Those too who never ran the release; once, since this forgets who has been decided on. */
const everybody = (rows: Rows, rollout: Id): Recallable[] => {
  if (rows.rollouts().some(({ plan }) => plan.recalls === rollout)) return [];
  return rows.deployments({ rollout }).map(({ device, cohort, compatible }) => {
    const { running = null, floor = 0 } = rows.device(device) ?? {};
    return { device, cohort, compatible, state: 'committed', before: running, floor, isLetIn: true };
  });
};

const isNoReceipt = ({ payload }: { payload: string }): boolean => parseAuditEvent(payload)?.kind !== 'receipt';

const approved = (record: RolloutRecord): RolloutRecord => {
  const { progress } = record;
  if (progress.state !== 'awaiting-approval') return record;
  return { ...record, progress: { state: 'scheduled', startAt: progress.startAt }, nextTickAt: progress.startAt };
};

const inReports = ({ world, methods, database, process }: Deps, reports: Reports): Planted => {
  const withDeployments = (change: (row: DeploymentRecord) => DeploymentRecord): Planted => ({
    args: [reports.map((report) => ({ ...report, deployments: report.deployments.map(change) }))],
  });
  switch (world.options.bug) {
    case 'acknowledged-before-commit':
      return {
        args: [reports],
        instead: async () => {
          world.time.at(50, process, () => void methods.saveReports(reports));
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
      return { args: [reports], after: () => forgetDrift(database) };
    default:
      return { args: [reports] };
  }
};

/** Looks at every single call of the store, remembers what it has seen, and holds the rules (rules-*.ts) against it. */
import { parseAuditEvent, sentenceOf } from '#server/domain/audit.ts';
import type { DeploymentRecord, OutcomeBin } from '#server/domain/deployment/deployment.ts';
import { countOutcomes } from '#server/domain/deployment/deployment.ts';
import type { Channel } from '#server/domain/release/channel.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import { Id, type Sha256 } from '#shared/ids.ts';
import { ed25519PublicKey, type PublicKey } from '#shared/trust/keys.ts';
import type { Rows } from './rows.ts';
import { openDrift } from './rules-drift.ts';
import { openIllness } from './rules-illness.ts';
import { checkPromoted } from './rules-promotion.ts';
import {
  checkAudited,
  checkCool,
  checkOneOwner,
  checkProven,
  checkReceipt,
  coolUntil,
  type Event,
  isReturn,
  type Seen,
} from './rules-rows.ts';
import {
  type BinsRead,
  checkAllowance,
  checkApproved,
  checkAtRisk,
  checkMove,
  checkOfferedInWindow,
  checkWithdrawn,
  type Save,
} from './rules-save.ts';
import { checkTables } from './rules-tables.ts';
import type { World } from './world.ts';

export type Witness = {
  /** Runs one call of the store, and looks at what it did. */
  observe(method: string, args: unknown[], act: () => Promise<unknown>): Promise<unknown>;
  /** Receipts in the audit log. */
  receipts: ReadonlySet<string>;
  deployments: ReadonlyMap<Id, Seen>;
  /** When this rollout last stopped (halted, paused or aborted); undefined while it runs. */
  stoppedAt(rollout: Id): number | undefined;
  /** Deployments that had been offered when it last stopped. */
  toldWhenStopped(rollout: Id): ReadonlySet<Id>;
  /** Everything against everything: see rules-tables.ts. */
  recount: () => void;
  log: readonly Event[];
  /** What the server owed to notice it may notice later. */
  serverDown: () => void;
  /** Someone has put this onto the device. */
  changedByHand: (device: Id, manifest: Sha256) => void;
};

const READS_MAX = 64;
/** Lines of the audit log that make a history easier to read. */
const TOLD: ReadonlySet<string> = new Set([
  'rollout-joined',
  'retry-planned',
  'taken-over',
  'device-drifted',
  'drift-adopted',
  'regressed',
  'release-promoted',
  'rollout-approved',
  'rollout-activated',
  'rollout-halted',
  'wave-opened',
  'overdue',
  'rollout-recalled',
  'recall-joined',
  'recall-stays',
]);

export const openWitness = (
  world: World,
  rows: Rows,
  channels: readonly Channel[],
  zoneOf: (device: Id) => string,
): Witness => {
  const seen = new Map<Id, Seen>();
  const receipts = new Set<string>();
  const stopped = new Map<Id, { at: number; told: ReadonlySet<Id> }>();
  const keys = new Map<Id, PublicKey>();
  const log: Event[] = [];
  const drift = openDrift(world, rows, log);
  const illness = openIllness(world, seen, (rollout) => rows.rollout(rollout));
  let reads: BinsRead[] = [];
  let auditRead = -1;

  const keyOf = (device: Id): PublicKey => {
    const known = keys.get(device) ?? ed25519PublicKey(world.signerOf(device).key.keyval.public);
    keys.set(device, known);
    return known;
  };
  const news = (): Event[] => {
    const entries = rows.audit(auditRead);
    auditRead = entries.at(-1)?.index ?? auditRead;
    const events = entries.map(({ payload }): Event => JSON.parse(payload));
    for (const { payload } of entries) tellOf(world, payload);
    for (const event of events) {
      if (event.kind === 'receipt') checkReceipt(world, keyOf, receipts, event);
      else log.push(event);
      if (event.kind === 'release-promoted') checkPromoted(world, channels, rows, event, log);
    }
    return events;
  };
  const look = (moved: DeploymentRecord[], events: Event[]): void => {
    for (const row of moved) {
      const known = seen.get(row.id);
      if (known === undefined) {
        seen.set(row.id, { row, committed: false, returned: false, coolUntil: 0 });
        continue;
      }
      if (known.row.revision === row.revision) continue;
      const before = known.row;
      const isNewOffer = row.state === 'offered' && before.state === 'planned';
      known.row = row;
      known.committed ||= row.state === 'committed';
      known.returned = isNewOffer ? false : known.returned || isReturn(before, row);
      if (before.state === row.state) continue;
      checkAudited(world, before, row, events);
      if (row.state === 'committed') checkProven(world, row, events);
      if (isNewOffer) checkCool(world, known, row.offeredAt ?? 0);
      if (row.state === 'planned') known.coolUntil = coolUntil(row, events, rows.rollout(row.rollout));
      illness.moved(row);
      drift.moved(row.device);
    }
    for (const { id } of moved) checkOneOwner(world, seen.get(id)!, seen.values());
  };
  const rowsOf = (rollout: Id): DeploymentRecord[] => rows.deployments({ rollout });

  const lookAtSave = (save: Save, before: RolloutRecord | undefined, outcome: Saved): void => {
    if (outcome.result !== 'saved' || before === undefined) return;
    const { plan } = save.rollout;
    const { id } = plan;
    const events = news();
    const taken = events.flatMap((event) => (event.kind === 'taken-over' ? [Id.parse(event.rollout)] : []));
    if (movesRows(save, outcome)) look([id, ...new Set(taken)].flatMap(rowsOf), events);
    checkMove(world, before, save, events);
    const [from, to] = [before.progress.state, save.rollout.progress.state];
    if (to === 'running') stopped.delete(id);
    else if (!stopped.has(id)) {
      const told = [...seen.values()].filter(({ row }) => row.rollout === id && row.offeredAt !== null);
      stopped.set(id, { at: world.time.now(), told: new Set(told.map(({ row }) => row.id)) });
    }
    if ((to === 'halted' || to === 'aborted') && from !== to) checkWithdrawn(world, save, seen.values());
    if (to === 'running' && from === 'scheduled') checkApproved(world, channels, plan, log);
    if (outcome.offered.length === 0) return;
    if (to !== 'running' || from !== 'running')
      world.violate(`rollout ${id} offers while it is ${from} and then ${to}`);
    const offered = outcome.offered.map((one) => seen.get(one)!.row);
    checkOfferedInWindow(world, save, offered, zoneOf);
    checkAllowance(world, save, offered, reads);
    checkAtRisk(world, save.rollout, seen.values());
  };

  const readBins = (rollout: Id, binMs: number, bins: OutcomeBin[]): OutcomeBin[] => {
    const theirs = [...seen.values()].flatMap(({ row }) => (row.rollout === rollout ? [row] : []));
    const recounted = countOutcomes(theirs, binMs);
    if (inWords(recounted) !== inWords(bins))
      world.violate(`rollout ${rollout} is judged by ${inWords(bins)}, but there is ${inWords(recounted)}`);
    reads = [
      ...reads.slice(1 - READS_MAX),
      { rollout, revision: rows.rollout(rollout)?.revision ?? 0, bins: recounted },
    ];
    return bins;
  };

  const observe: Witness['observe'] = async (method, args, act) => {
    const before = method === 'saveRollout' ? rows.rollout((args[0] as Save).rollout.plan.id) : undefined;
    const result = await act();
    switch (method) {
      case 'getOutcomeBins':
        return readBins(args[0] as Id, args[1] as number, result as OutcomeBin[]);
      case 'saveRollout':
        lookAtSave(args[0] as Save, before, result as Saved);
        break;
      case 'markOverdue':
        if ((result as DeploymentRecord[]).length > 0) look(result as DeploymentRecord[], news());
        break;
      case 'saveReports':
        look(movedBy(rows, args[0] as Reports), news());
        break;
      case 'saveHeartbeats':
        illness.heard(args[0] as Parameters<Store['saveHeartbeats']>[0]);
        break;
      case 'saveRegressions':
        look(rows.deployments({ ids: (args[0] as Moves).map(({ next }) => next.id) }), news());
        break;
      case 'setDeviceState':
        look(rows.deployments({ device: args[0] as Id }), news());
        break;
      case 'endWaits':
        if (result !== 0) look(rowsOf(args[0] as Id), news());
        break;
      case 'addDeployments':
        look(rowsOf((args[0] as RolloutRecord).plan.id), news());
        break;
      case 'saveRecall':
        if (result === 'saved') lookAtRecall(args[0] as Recall);
        break;
      case 'createRollout':
        lookAtNew([args[0] as RolloutRecord]);
        break;
      case 'createRollouts':
        lookAtNew((args[0] as Recall['created']).map(({ rollout }) => rollout));
        break;
      case 'saveRelease':
      case 'adoptRunning':
      case 'saveCheck':
      case 'approveRelease':
        news();
        break;
      default:
    }
    return result;
  };
  /** No one is sent back but who ran the release because of the recalled rollout. */
  const lookAtRecall = ({ recalled, created, joined }: Recall): void => {
    const events = news();
    const { id } = recalled.plan;
    for (const { rollout, deployments } of [...created, ...joined]) {
      look(rowsOf(rollout.plan.id), events);
      for (const { device } of deployments) {
        const known = [...seen.values()].find(({ row }) => row.rollout === id && row.device === device);
        if (known?.committed !== true)
          world.violate(`${device} is recalled from ${id}, by which it never ran the release`);
      }
    }
  };
  const lookAtNew = (planned: RolloutRecord[]): void => {
    const events = news();
    for (const { plan } of planned) {
      if (!events.some(({ kind, rollout }) => kind === 'rollout-planned' && rollout === plan.id))
        world.violate(`rollout ${plan.id} was planned without a line in the audit log`);
      look(rowsOf(plan.id), events);
    }
  };

  return {
    observe,
    receipts,
    deployments: seen,
    log,
    stoppedAt: (rollout) => stopped.get(rollout)?.at,
    toldWhenStopped: (rollout) => stopped.get(rollout)?.told ?? new Set(),
    serverDown: illness.postpone,
    changedByHand: drift.changedByHand,
    recount: () => {
      checkTables(world, rows, seen);
      illness.recount();
      drift.recount();
    },
  };
};

type Saved = Awaited<ReturnType<Store['saveRollout']>>;
/** The audit log's own words. */
const tellOf = (world: World, payload: string): void => {
  const event = parseAuditEvent(payload);
  if (event !== undefined && TOLD.has(event.kind)) world.tell(sentenceOf(event));
};

const movesRows = ({ withdraw, replan, activate }: Save, outcome: Saved): boolean =>
  withdraw !== null ||
  replan ||
  activate === true ||
  (outcome.result === 'saved' && outcome.offered.length + outcome.skipped.length > 0);

type Reports = Parameters<Store['saveReports']>[0];
type Recall = Parameters<Store['saveRecall']>[0];
type Moves = Parameters<Store['saveRegressions']>[0];

const movedBy = (rows: Rows, reports: Reports): DeploymentRecord[] => {
  const ids = reports.flatMap(({ deployments }) => deployments.map(({ id }) => id));
  return ids.length === 0 ? [] : rows.deployments({ ids });
};

const inWords = (bins: OutcomeBin[]): string =>
  bins
    .filter(({ devices }) => devices !== 0)
    .map((one) =>
      [one.wave, one.cohort, one.compatible, one.outcome, one.startBin, one.delayBins, one.devices].join('/'),
    )
    .sort()
    .join();

/**
 * A fleet on a virtual clock, held to the domain's own rules: deployments move by `stepDeployment` and are counted by
 * `outcomeOf`, as the store does it. Only deployments that have begun exist as records, and the counts are kept as they
 * change.
 */
import { Id, type Millis } from '#shared/ids.ts';
import type { Policy } from '#shared/policy.ts';
import {
  AGE_BINS,
  binMsOf,
  type DeploymentRecord,
  type OutcomeBin,
  outcomeOf,
} from '../domain/deployment/deployment.ts';
import { type DeviceReport, stepDeployment } from '../domain/deployment/deployment-step.ts';
import type { RolloutPlan } from '../domain/rollout/rollout.ts';
import { dueQueue } from './due-queue.ts';
import type { FleetModel } from './model.ts';
import { type Random, waitOf } from './random.ts';

export const SIMULATED = Id.parse('simulated');

/**
 * What a device or its deadline will say of its deployment: the deployment as it is until then, and the bin that counts it.
 */
type Due = { record: DeploymentRecord; bin: OutcomeBin; word: DeviceReport | 'deadline' };
/** Devices that have been offered the release, those among them that it fails on, and those that are decided. */
type Counted = { exposed: number; harmed: number; decided: number };

export type VirtualFleet = {
  /** As the store would count them now. */
  bins(): OutcomeBin[];
  /** Offers to at most so many planned devices of a wave, all of which accept at once. Returns how many. */
  offer(wave: number, atMost: number, now: Millis): number;
  /** Everything that devices and deadlines do up to and including `now`. */
  pass(now: Millis): void;
  /** When something happens next; null when nothing does. */
  nextAt(): Millis | null;
  counted: Counted;
};

export const virtualFleet = (
  model: FleetModel,
  { waveSizes, policy }: Pick<RolloutPlan, 'waveSizes' | 'policy'>,
  random: Random,
): VirtualFleet => {
  const tally = outcomeTally(policy, waveSizes);
  const due = dueQueue<Due>();
  const counted: Counted = { exposed: 0, harmed: 0, decided: 0 };

  /** Draws what becomes of a device that has just accepted. */
  const begin = (record: DeploymentRecord, bin: OutcomeBin, now: Millis): void => {
    const fails = random() < model.failing;
    const isSilent = random() < model.silent;
    const waitMs = waitOf(random, fails ? model.failureReportMs : model.reportMs);
    counted.harmed += Number(fails);
    // A device that would take longer than its deadline is overdue for good, healthy or not: the table of docs/judge.md
    // assumes it.
    const reports = !(fails && isSilent) && waitMs <= policy.deadlines.outcomeMs;
    if (reports) due.add(now + waitMs, { record, bin, word: { outcome: fails ? 'reverted' : 'committed' } });
    else due.add(now + policy.deadlines.outcomeMs, { record, bin, word: 'deadline' });
  };
  const end = ({ record, bin, word }: Due, at: Millis): void => {
    const next = word === 'deadline' ? overdueAt(record, at) : stepDeployment(record, word, at, policy).next;
    bin.devices -= 1;
    tally.binOf(next).devices += 1;
    counted.decided += Number(next.decidedAt !== null);
  };
  return {
    bins: () => tally.bins(),
    offer(wave, atMost, now) {
      const before = plannedIn(wave);
      const planned = tally.binOf(before);
      const devices = Math.min(atMost, planned.devices);
      if (devices === 0) return 0;
      const offered: DeploymentRecord = { ...before, state: 'offered', offeredAt: now, stateAt: now };
      const accepted = stepDeployment(offered, { state: 'accepted' }, now, policy).next;
      const bin = tally.binOf(accepted);
      planned.devices -= devices;
      bin.devices += devices;
      counted.exposed += devices;
      for (let device = 0; device < devices; device++) begin(accepted, bin, now);
      return devices;
    },
    pass(now) {
      tally.age(now);
      for (let next = due.take(now); next !== undefined; next = due.take(now)) end(next.what, next.at);
    },
    nextAt: () => due.nextAt(),
    counted,
  };
};

/** What the store does to an accepted device that stays silent past its deadline. */
const overdueAt = (record: DeploymentRecord, at: Millis): DeploymentRecord =>
  record.deadlineAt === null
    ? record
    : {
        ...record,
        state: 'overdue',
        overdue: 'silent',
        reached: record.state,
        stateAt: at,
        decidedAt: at,
        deadlineAt: null,
      };

const plannedIn = (wave: number): DeploymentRecord => ({
  id: SIMULATED,
  rollout: SIMULATED,
  device: SIMULATED,
  cohort: SIMULATED,
  compatible: SIMULATED,
  wave,
  position: 0,
  state: 'planned',
  offeredAt: null,
  acceptedAt: null,
  decidedAt: null,
  stateAt: 0,
  deadlineAt: null,
  overdue: null,
  heldUntil: null,
  error: null,
  revision: 1,
});

/**
 * `countOutcomes`, kept up to date instead of counted again. Bins that are too old to be told apart by the judge are
 * one.
 */
const outcomeTally = (policy: Policy, waveSizes: number[]) => {
  const binMs = binMsOf(policy);
  // The simple rules do not ask for ages at all.
  const agesKept = policy.judge.rule === 'evidence' ? AGE_BINS : 0;
  /** Those of one wave and outcome lie together, as in the store's answer. */
  const classes = new Map<string, Map<string, OutcomeBin>>();
  /** Decided deployments that began before this bin are counted as if they had begun in it: they have all ages seen. */
  let oldestBin = 0;

  const named = (bin: OutcomeBin): OutcomeBin => {
    const ofClass = kept(classes, `${bin.wave} ${bin.outcome}`, () => new Map<string, OutcomeBin>());
    return kept(ofClass, `${bin.startBin} ${bin.delayBins}`, () => bin);
  };
  const binOf = (record: DeploymentRecord): OutcomeBin => {
    const outcome = outcomeOf(record);
    const { cohort, compatible, wave, acceptedAt, decidedAt } = record;
    const begun = acceptedAt === null ? null : Math.floor(acceptedAt / binMs);
    const startBin = begun === null || outcome === 'undecided' ? begun : Math.max(begun, oldestBin);
    const delayBins =
      outcome === 'healthy' && acceptedAt !== null && decidedAt !== null
        ? Math.floor((decidedAt - acceptedAt) / binMs)
        : null;
    return named({ cohort, compatible, wave, outcome, startBin, delayBins, devices: 0 });
  };
  waveSizes.forEach((devices, wave) => {
    binOf(plannedIn(wave)).devices = devices;
  });
  return {
    binOf,
    bins(): OutcomeBin[] {
      const bins: OutcomeBin[] = [];
      for (const ofClass of classes.values()) for (const bin of ofClass.values()) if (bin.devices > 0) bins.push(bin);
      return bins;
    },
    age(now: Millis): void {
      const oldest = Math.floor(now / binMs) - agesKept;
      if (oldest <= oldestBin) return;
      oldestBin = oldest;
      for (const ofClass of classes.values()) {
        for (const [key, bin] of ofClass) {
          if (bin.startBin === null || bin.startBin >= oldest || (bin.outcome === 'undecided' && bin.devices > 0))
            continue;
          ofClass.delete(key);
          if (bin.devices > 0) named({ ...bin, startBin: oldest, devices: 0 }).devices += bin.devices;
        }
      }
    },
  };
};

/** What the map has under the key, or, from now on, what is made. */
const kept = <T>(map: Map<string, T>, key: string, make: () => T): T => {
  const known = map.get(key);
  if (known !== undefined) return known;
  const made = make();
  map.set(key, made);
  return made;
};

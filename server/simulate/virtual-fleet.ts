/**
 * A fleet on a virtual clock, held to the domain's own rules: journeys move by `stepDeployment` and are counted by `outcomeOf`,
 * as the store does it. Only journeys that have begun exist as records, and the counts are kept as they change.
 */
import { Id } from '#shared/ids.ts';
import type { Policy } from '#shared/policy.ts';
import { AGE_BINS, binMsOf, type DeploymentRecord, type OutcomeBin, outcomeOf } from '../domain/deployment.ts';
import { type DeviceWord, stepDeployment } from '../domain/deployment-step.ts';
import type { Millis, RolloutPlan } from '../domain/rollout.ts';
import { dueQueue } from './due-queue.ts';
import type { FleetModel } from './model.ts';
import { type Random, waitOf } from './random.ts';

export const SIMULATED = Id.parse('simulated');

type Journey = { record: DeploymentRecord };
type Due = { journey: Journey; word: DeviceWord | 'deadline' };
/** Devices that have been offered the release, those among them that it fails on, and those that are decided. */
export type Counted = { exposed: number; harmed: number; decided: number };

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

  const move = (journey: Journey, next: DeploymentRecord): void => {
    if (next === journey.record) return;
    tally.count(journey.record, -1);
    tally.count(next, 1);
    counted.decided += Number(next.decidedAt !== null) - Number(journey.record.decidedAt !== null);
    journey.record = next;
  };
  const begin = (wave: number, now: Millis): void => {
    const fails = random() < model.failing;
    const isSilent = random() < model.silent;
    const waitMs = waitOf(random, fails ? model.failureReportMs : model.reportMs);
    const journey: Journey = { record: plannedIn(wave) };
    counted.exposed += 1;
    counted.harmed += Number(fails);
    const offered: DeploymentRecord = { ...journey.record, state: 'offered', offeredAt: now, stateAt: now };
    move(journey, stepDeployment(offered, { state: 'accepted' }, now, policy).next);
    // A device that would take longer than its deadline is overdue for good, healthy or not: the table of docs/judge.md assumes it.
    const reports = !(fails && isSilent) && waitMs <= policy.deadlines.outcomeMs;
    if (reports) due.add(now + waitMs, { journey, word: { outcome: fails ? 'reverted' : 'committed' } });
    else due.add(now + policy.deadlines.outcomeMs, { journey, word: 'deadline' });
  };
  return {
    bins: () => tally.bins(),
    offer(wave, atMost, now) {
      const devices = Math.min(atMost, tally.planned(wave));
      for (let device = 0; device < devices; device++) begin(wave, now);
      return devices;
    },
    pass(now) {
      tally.age(now);
      for (let next = due.take(now); next !== undefined; next = due.take(now)) {
        const { journey, word } = next.what;
        const { record } = journey;
        if (word === 'deadline') move(journey, overdueAt(record, next.at));
        else move(journey, stepDeployment(record, word, next.at, policy).next);
      }
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

/** `countOutcomes`, kept up to date instead of counted anew. Bins that are too old to be told apart by the judge are one. */
const outcomeTally = (policy: Policy, waveSizes: number[]) => {
  const binMs = binMsOf(policy);
  const bins = new Map<string, OutcomeBin>();
  /** Decided journeys that began before this bin are counted as if they had begun in it: they have all ages seen. */
  let oldestBin = 0;

  const named = (bin: OutcomeBin): OutcomeBin => {
    const key = `${bin.wave} ${bin.outcome} ${bin.startBin} ${bin.delayBins}`;
    const known = bins.get(key);
    if (known) return known;
    bins.set(key, bin);
    return bin;
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
    bins: (): OutcomeBin[] => [...bins.values()].filter(({ devices }) => devices > 0),
    planned: (wave: number): number => binOf(plannedIn(wave)).devices,
    count(record: DeploymentRecord, change: 1 | -1): void {
      binOf(record).devices += change;
    },
    age(now: Millis): void {
      const oldest = Math.floor(now / binMs) - AGE_BINS;
      if (oldest <= oldestBin) return;
      oldestBin = oldest;
      for (const [key, bin] of bins) {
        if (bin.startBin === null || bin.startBin >= oldest || (bin.outcome === 'undecided' && bin.devices > 0))
          continue;
        bins.delete(key);
        if (bin.devices > 0) named({ ...bin, startBin: oldest, devices: 0 }).devices += bin.devices;
      }
    },
  };
};

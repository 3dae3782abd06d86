/**
 * The judge of docs/judge.md: halts on evidence, halts on a budget of harmed devices, and bounds how many more may be offered.
 * Pure arithmetic on counts, so that 10,000 devices cost no more than 100: one judge per rollout, cohort and compatible.
 */
import type { EvidenceRule } from '#shared/policy.ts';
import { AGE_BINS } from './deployment.ts';

/** Ages and delays are in bins (see `binMsOf`); those beyond the last bin count in the last. */
export type JudgeInput = {
  /** h: confirmed healthy. One that failed later is counted in `failed` only. */
  healthy: number;
  /** x: failed, reverted, or silent past the outcome deadline. */
  failed: number;
  /** Accepted, no outcome yet, by the time since acceptance. */
  undecided: { ageBins: number; devices: number }[];
  /** The healthy ones again, by the time since acceptance (`startAgeBins`) and by how long they took (`delayBins`). */
  confirmed: { startAgeBins: number; delayBins: number; devices: number }[];
};

export type JudgeVerdict =
  | { kind: 'halt'; why: 'evidence'; evidence: number }
  | { kind: 'halt'; why: 'budget'; excess: number }
  /** `atMost` more may be offered; Infinity when nothing but the rate limit bounds it; 0 is hold. */
  | { kind: 'offer'; atMost: number; risk: number; upperBound: number };

/** Evidence grows exponentially; beyond this the number says nothing more (and stays an exact integer). */
export const EVIDENCE_MAX = 1e12;
/** K0: how many confirmations it takes before the rollout's own delays outweigh the assumption that healthy devices report at once. */
const PRIOR_CONFIRMATIONS = 10;
/** However long ago a device accepted, this much chance stays that it is healthy and merely late. */
const LATE_CHANCE = 0.005;
const ALTERNATIVES = 8;
/** Halvings of the interval [0, 1]: beyond double precision. */
const BISECTIONS = 60;

/** p_k: the failure rates that the test bets on, from 1.5 times the tolerated rate to 99 %, evenly spaced in logarithm. */
export const alternatives = (limit: number): number[] => {
  const from = Math.log(1.5 * limit);
  const to = Math.log(0.99);
  return Array.from({ length: ALTERNATIVES }, (_, k) => Math.exp(from + ((to - from) * k) / (ALTERNATIVES - 1)));
};

/**
 * ln E: how many to one the evidence is that more than `limit` fail, given `failed` among `offered`. A mixture of likelihood
 * ratios is a martingale under the tolerated rate, so E exceeds 1/alpha with a chance of at most alpha, however often one looks (Ville).
 */
export const logEvidence = (failed: number, offered: number, limit: number): number => {
  const logs = alternatives(limit).map(
    (p) => failed * Math.log(p / limit) + (offered - failed) * Math.log((1 - p) / (1 - limit)),
  );
  const largest = Math.max(...logs);
  return largest + Math.log(logs.reduce((sum, log) => sum + Math.exp(log - largest), 0) / ALTERNATIVES);
};

/**
 * S(a) for a = 0 .. bins - 1: the chance that a healthy device of that age has not reported yet, learnt from the devices that
 * did. Right-truncated product limit: of devices offered b bins ago one can only have seen delays up to b.
 */
export const delayCurve = (confirmed: JudgeInput['confirmed'], bins: number): number[] => {
  const last = bins - 1;
  // byStart[s * bins + d]: confirmed after d bins, accepted s bins ago.
  const counts = new Float64Array(bins * bins);
  for (const { startAgeBins, delayBins, devices } of confirmed) {
    const delay = clampBin(delayBins, last);
    const start = Math.max(delay, clampBin(startAgeBins, last));
    counts[start * bins + delay]! += devices;
  }
  // byStart, added up over the delays: how many were confirmed after at most d bins.
  const upToDelay = Float64Array.from(counts);
  for (let at = 0; at < upToDelay.length; at++) if (at % bins > 0) upToDelay[at]! += upToDelay[at - 1]!;
  const curve = Array.from({ length: bins }, () => LATE_CHANCE);
  let reported = 1;
  for (let bin = last; bin >= 1; bin--) {
    let at = 0;
    let upTo = 0;
    for (let start = bin; start <= last; start++) {
      at += counts[start * bins + bin]!;
      upTo += upToDelay[start * bins + bin]!;
    }
    reported *= 1 - at / (upTo + PRIOR_CONFIRMATIONS);
    curve[bin - 1] = LATE_CHANCE + (1 - LATE_CHANCE) * (1 - reported);
  }
  return curve;
};

const clampBin = (bin: number, last: number): number => Math.min(last, Math.max(0, bin));

/** Undecided devices that share one chance `late` of being healthy and merely late. */
export type Waiting = { late: number; devices: number };

/** pU: the largest failure rate that the observations leave plausible, at the confidence 1 - delta. 1 when nobody is healthy yet. */
export const upperBound = (failed: number, healthy: number, waiting: Waiting[], delta: number): number => {
  if (healthy === 0) return 1;
  const likelihood = (p: number): number =>
    (failed === 0 ? 0 : failed * Math.log(p)) +
    healthy * Math.log1p(-p) +
    waiting.reduce((sum, { late, devices }) => sum + devices * Math.log(late + p * (1 - late)), 0);
  const slope = (p: number): number =>
    (failed === 0 ? 0 : failed / p) -
    healthy / (1 - p) +
    waiting.reduce((sum, { late, devices }) => sum + (devices * (1 - late)) / (late + p * (1 - late)), 0);
  // The log likelihood is concave: one maximum, and one place to its right where it has fallen by ln(1/delta).
  const best = slope(Number.MIN_VALUE) <= 0 ? 0 : bisect(0, 1, (p) => slope(p) > 0);
  const floor = likelihood(best) + Math.log(delta);
  return bisect(best, 1, (p) => likelihood(p) >= floor);
};

/** The largest value between `low` and `high` for which `holds`, which is true up to there and false beyond. */
const bisect = (low: number, high: number, holds: (value: number) => boolean): number => {
  let [from, to] = [low, high];
  for (let step = 0; step < BISECTIONS; step++) {
    const middle = (from + to) / 2;
    if (holds(middle)) from = middle;
    else to = middle;
  }
  return from;
};

/** w: the chance that a device that has not reported yet has failed, when the failure rate is p. */
export const failedChance = (p: number, late: number): number => p / (p + (1 - p) * late);

/** The verdict for one group. `bins` is the number of age bins up to the outcome deadline; tests use fewer. */
export const judge = (
  input: JudgeInput,
  rule: Pick<EvidenceRule, 'limit' | 'alpha' | 'budget' | 'delta'>,
  bins: number = AGE_BINS,
): JudgeVerdict => {
  const offered = input.healthy + input.failed + input.undecided.reduce((sum, { devices }) => sum + devices, 0);
  const evidence = logEvidence(input.failed, offered, rule.limit);
  if (evidence >= -Math.log(rule.alpha)) {
    return { kind: 'halt', why: 'evidence', evidence: Math.min(EVIDENCE_MAX, Math.exp(evidence)) };
  }
  const excess = input.failed - rule.limit * offered;
  if (excess > rule.budget - 1) return { kind: 'halt', why: 'budget', excess };

  return { kind: 'offer', ...offerBound(input.failed, input.healthy, waitingOf(input, bins), rule) };
};

/**
 * Step 3 for each undecided device. Delays are rounded down, so a device of age `a` bins is late with the chance that a delay falls
 * into bin `a` or a later one: S(a - 1).
 */
export const waitingOf = ({ confirmed, undecided }: JudgeInput, bins: number = AGE_BINS): Waiting[] => {
  const curve = delayCurve(confirmed, bins);
  return undecided.map(({ ageBins, devices }) => ({
    late: ageBins <= 0 ? 1 : curve[clampBin(ageBins - 1, bins - 1)]!,
    devices,
  }));
};

/** Steps 4 to 6: what may plausibly have failed already, and so how many more may be put at risk within the budget. */
export const offerBound = (
  failed: number,
  healthy: number,
  waiting: Waiting[],
  rule: Pick<EvidenceRule, 'limit' | 'budget' | 'delta'>,
): { atMost: number; risk: number; upperBound: number } => {
  const bound = upperBound(failed, healthy, waiting, rule.delta);
  const offered = failed + healthy + waiting.reduce((sum, { devices }) => sum + devices, 0);
  const failing = waiting.reduce((sum, { late, devices }) => sum + devices * failedChance(bound, late), 0);
  const risk = failed + failing - rule.limit * offered;
  if (bound > rule.limit) {
    return { atMost: Math.max(0, Math.floor((rule.budget - risk) / (bound - rule.limit))), risk, upperBound: bound };
  }
  return { atMost: risk <= rule.budget ? Number.POSITIVE_INFINITY : 0, risk, upperBound: bound };
};

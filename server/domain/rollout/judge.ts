/**
 * The judge of docs/judge.md: halts on evidence, halts on a budget of harmed devices, and bounds how many more may be
 * offered. Pure arithmetic on counts, so that 10,000 devices cost no more than 100: one judge per rollout, cohort and
 * compatible.
 */
import type { EvidenceRule } from '#shared/policy.ts';
import { AGE_BINS } from '../deployment/deployment.ts';

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
/**
 * K0: how many confirmations it takes before the rollout's own delays outweigh the assumption that healthy devices
 * report at once.
 */
const PRIOR_CONFIRMATIONS = 10;
/** However long ago a device accepted, this much chance stays that it is healthy and merely late. */
const LATE_CHANCE = 0.005;
const ALTERNATIVES = 8;
/** Of the sought value: far finer than any count of devices can tell. */
const PRECISION = 1e-12;
/** It takes about ten, and some thirty where thousands wait for one that is healthy. */
const NEWTON_STEPS_MAX = 100;

/**
 * p_k: the failure rates that the test bets on, from 1.5 times the tolerated rate to 99 %, evenly spaced in logarithm.
 */
export const alternatives = (limit: number): number[] => {
  const from = Math.log(1.5 * limit);
  const to = Math.log(0.99);
  return Array.from({ length: ALTERNATIVES }, (_, k) => Math.exp(from + ((to - from) * k) / (ALTERNATIVES - 1)));
};

/**
 * ln E: how many to one the evidence is that more than `limit` fail, given `failed` among `offered`. A mixture of
 * likelihood ratios is a martingale under the tolerated rate, so E exceeds 1/alpha with a chance of at most alpha,
 * however often one looks (Ville).
 */
export const logEvidence = (failed: number, offered: number, limit: number): number => {
  const logs = alternatives(limit).map(
    (p) => failed * Math.log(p / limit) + (offered - failed) * Math.log((1 - p) / (1 - limit)),
  );
  const largest = Math.max(...logs);
  return largest + Math.log(logs.reduce((sum, log) => sum + Math.exp(log - largest), 0) / ALTERNATIVES);
};

/**
 * S(a) for a = 0 .. bins - 1: the chance that a healthy device of that age has not reported yet, learnt from the
 * devices that did. Right-truncated product limit: of devices offered b bins ago one can only have seen delays up to b.
 */
export const delayCurve = (confirmed: JudgeInput['confirmed'], bins: number): number[] => {
  const last = bins - 1;
  /** d_b: confirmed after b bins. */
  const after = new Float64Array(bins);
  /**
   * N_b - N_(b-1). Someone confirmed after `delay` bins, who accepted `start` bins ago, is among the N_b from `delay`
   * to `start`.
   */
  const changes = new Float64Array(bins + 1);
  for (const { startAgeBins, delayBins, devices } of confirmed) {
    const delay = clampBin(delayBins, last);
    const start = Math.max(delay, clampBin(startAgeBins, last));
    after[delay]! += devices;
    changes[delay]! += devices;
    changes[start + 1]! -= devices;
  }
  const curve = Array.from({ length: bins }, () => LATE_CHANCE);
  let reported = 1;
  let upTo = 0;
  for (let bin = last; bin >= 1; bin--) {
    upTo -= changes[bin + 1]!;
    reported *= 1 - after[bin]! / (upTo + PRIOR_CONFIRMATIONS);
    curve[bin - 1] = LATE_CHANCE + (1 - LATE_CHANCE) * (1 - reported);
  }
  return curve;
};

const clampBin = (bin: number, last: number): number => Math.min(last, Math.max(0, bin));

/** Undecided devices that share one chance `late` of being healthy and merely late. */
export type Waiting = { late: number; devices: number };

/**
 * pU: the largest failure rate that the observations leave plausible, at the confidence 1 - delta. 1 when no one is
 * healthy yet. Sought as `t = -ln(1 - p)`: there the log likelihood is concave with a convex slope, so that Newton's
 * steps never overshoot.
 */
export const upperBound = (failed: number, healthy: number, waiting: Waiting[], delta: number): number => {
  if (healthy === 0) return 1;
  // A failed device is one that is certainly not merely late.
  const unhealthy = failed === 0 ? waiting : [{ late: 0, devices: failed }, ...waiting];
  // The failed alone put the maximum here, and those who wait further to the right.
  let best = Math.log1p(failed / healthy);
  for (let step = 0; step < NEWTON_STEPS_MAX; step++) {
    const { slope, bend } = likelihoodAt(best, healthy, unhealthy);
    if (slope <= 0 || slope <= PRECISION * bend * best) break;
    best += slope / bend;
  }
  const floor = likelihoodAt(best, healthy, unhealthy).log + Math.log(delta);
  // Right of the maximum the likelihood falls to the floor in one place, which is left of this: the logs of chances are
  // negative.
  let bound = -floor / healthy;
  for (let step = 0; step < NEWTON_STEPS_MAX; step++) {
    const { log, slope } = likelihoodAt(bound, healthy, unhealthy);
    const left = (log - floor) / slope;
    if (!(left > PRECISION * bound)) break;
    bound -= left;
  }
  return -Math.expm1(-bound);
};

/**
 * The logarithm of the likelihood that the failure rate is `1 - exp(-t)`, and its first and (but for the sign) second
 * derivative by t.
 */
const likelihoodAt = (
  t: number,
  healthy: number,
  unhealthy: Waiting[],
): { log: number; slope: number; bend: number } => {
  const p = -Math.expm1(-t);
  let [log, slope, bend] = [-healthy * t, -healthy, 0];
  for (const { late, devices } of unhealthy) {
    const chance = late + (1 - late) * p;
    const change = ((1 - late) * (1 - p)) / chance;
    log += devices * Math.log(chance);
    slope += devices * change;
    bend += devices * (change + change * change);
  }
  return { log, slope, bend };
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
 * Step 3 for each undecided device. Delays are rounded down, so a device of age `a` bins is late with the chance that a
 * delay falls into bin `a` or a later one: S(a - 1).
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

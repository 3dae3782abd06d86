/** Many runs in a few numbers. */
import type { RunOutcome, Spread, TrialFigures } from './model.ts';

const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
/** The smallest value that 95 % of all do not exceed. */
const p95 = (values: number[]): number => values.toSorted((a, b) => a - b)[Math.ceil(0.95 * values.length) - 1]!;
const spread = (values: number[]): Spread => ({ mean: mean(values), p95: p95(values) });
const haltedShare = (runs: RunOutcome[]): number => mean(runs.map(({ halted }) => Number(halted)));

/** `runs` of the release in question, `goodRuns` of a good one; each at least one. */
export const figuresOf = (policy: string, runs: RunOutcome[], goodRuns: RunOutcome[]): TrialFigures => {
  const minutes = goodRuns.map(({ minutesTo99 }) => minutesTo99).filter((value) => value !== null);
  return {
    policy,
    harmed: spread(runs.map(({ harmed }) => harmed)),
    exposed: spread(runs.map(({ exposed }) => exposed)),
    falseHalts: haltedShare(goodRuns),
    halted: haltedShare(runs),
    minutesTo99: minutes.length === 0 ? null : mean(minutes),
  };
};

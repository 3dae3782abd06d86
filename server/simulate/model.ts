/** What is simulated: a fleet, a release that fails on some of it, and a policy; and what one run of it came to. */
import { z } from 'zod';
import { DurationMs } from '#shared/ids.ts';
import { CohortPlan, Policy } from '#shared/policy.ts';
import { waveWithoutGrowth } from '../domain/rollout/waves.ts';

export const FleetModel = z.strictObject({
  devices: z.number().int().min(1).max(100_000).default(10_000),
  /** The true failure rate of the release, 0 to 1. */
  failing: z.number().min(0).max(1).default(0.03),
  /** Share of the failing devices that never say so. */
  silent: z.number().min(0).max(1).default(0.3),
  /** How long a device takes, on average, from acceptance to its word that all is well (see `waitOf`). */
  reportMs: DurationMs.min(1).default(600_000),
  /**
   * The same for its word that it failed; often sooner in life, since a crash takes less time than a proof of health.
   */
  failureReportMs: DurationMs.min(1).default(600_000),
});
export type FleetModel = z.infer<typeof FleetModel>;

/** A policy under trial: what a person would roll out with. */
export const Trial = z.strictObject({
  name: z.string().min(1).max(64),
  policy: Policy,
  /** Cumulative, of one cohort that is the whole fleet. */
  waves: CohortPlan.shape.waves.refine(
    (waves) => waveWithoutGrowth(waves) === undefined,
    'waves are cumulative, each larger than the one before',
  ),
});
export type Trial = z.infer<typeof Trial>;

/** What is asked of a simulation. */
export const Simulation = z.strictObject({
  trials: z.array(Trial).min(1).max(16),
  model: FleetModel,
  /** The failure rate of a good release: how often is it halted, and how long does it take? */
  good: z.number().min(0).max(1),
  runs: z.number().int().min(1).max(100_000),
  seed: z
    .number()
    .int()
    .min(0)
    .max(2 ** 31 - 1),
});
export type Simulation = z.infer<typeof Simulation>;

export type RunOutcome = {
  /** Devices that were offered the release before the rollout ended. */
  exposed: number;
  /** Those among them that the release fails on, whether they had said so or not. */
  harmed: number;
  halted: boolean;
  /** From the start until 99 % of the fleet is decided; null when that was never so. */
  minutesTo99: number | null;
};

/** What a trial came to over all runs. Shares are from 0 to 1. */
export type TrialFigures = {
  policy: string;
  harmed: Spread;
  exposed: Spread;
  /** Share of the runs of a *good* release that were halted. */
  falseHalts: number;
  /** Share of the runs of the release in question that were halted. */
  halted: number;
  /** Of a good release, on average over the runs that came so far; null when none did. */
  minutesTo99: number | null;
};
export type Spread = { mean: number; p95: number };

/**
 * A rollout's policy: every field with a safe default, so that `{}` is a policy. Read by the server's domain, shown by
 * the CLI.
 */
import { z } from 'zod';
import { DurationMs, Id, Millis } from './ids.ts';
import { MaintenanceWindow } from './windows.ts';

/**
 * The judge of docs/judge.md: halts on evidence, halts on a budget of harmed devices, and lets a wave grow only as
 * evidence of health arrives.
 */
export const EvidenceRule = z.strictObject({
  rule: z.literal('evidence'),
  /** Tolerated failure rate; set it above the fleet's normal drop-off. */
  limit: z.number().min(0.0001).max(0.5).default(0.02),
  /** Chance of ever halting a release whose failure rate is at most `limit`. */
  alpha: z.number().min(0.0001).max(0.5).default(0.05),
  /** Devices that may be harmed, beyond `limit` of those offered, before the rollout halts. */
  budget: z.number().min(1).max(100_000).default(20),
  /** One minus the confidence of the upper bound that governs growth. */
  delta: z.number().min(0.0001).max(0.5).default(0.05),
});
/** Halt when more than `percent` of a wave's devices failed (hawkBit's error threshold). */
export const WavePercentageRule = z.strictObject({
  rule: z.literal('wave-percentage'),
  percent: z.number().min(0).max(100).default(5),
});
/**
 * Halt when more than `percent` of the decided devices failed, once at least `minimum` are decided (AWS IoT Jobs' abort
 * criteria).
 */
export const PercentageAfterMinimumRule = z.strictObject({
  rule: z.literal('percentage-after-minimum'),
  percent: z.number().min(0).max(100).default(5),
  minimum: z.number().int().min(1).max(1_000_000).default(10),
});
export const JudgeRule = z.discriminatedUnion('rule', [EvidenceRule, WavePercentageRule, PercentageAfterMinimumRule]);
export type JudgeRule = z.infer<typeof JudgeRule>;
export type EvidenceRule = z.infer<typeof EvidenceRule>;

/** How large a wave is, cumulatively within its cohort: after `{percent: 10}`, `{percent: 100}` is the rest. */
export const WaveSize = z.union([
  z.strictObject({ count: z.number().int().min(1).max(1_000_000) }),
  z.strictObject({ percent: z.number().gt(0).max(100) }),
]);
export type WaveSize = z.infer<typeof WaveSize>;

/** The priority of what cannot wait: a hotfix, a recall. */
export const URGENT_PRIORITY = 90;

export const Policy = z.strictObject({
  judge: JudgeRule.prefault({ rule: 'evidence' }),
  gate: z
    .strictObject({
      /** Share of a wave's reachable devices that must have committed before the next wave opens. */
      successShare: z.number().min(0).max(1).default(0.9),
      /** How long that must have been so. */
      soakMs: DurationMs.default(60_000),
    })
    .prefault({}),
  deadlines: z
    .strictObject({
      /** An offered device that has not accepted by then is overdue as never heard; it does not count as a failure. */
      acceptMs: DurationMs.min(1).default(86_400_000),
      /** From acceptance to a committed trial; past it the device is overdue and counts as a failure. */
      outcomeMs: DurationMs.min(1).default(3_600_000),
      /** The same for parts of the way, each within `outcomeMs`. From acceptance until everything is fetched. */
      fetchMs: DurationMs.min(1).optional(),
      /** Until it is written to the standby slot and read back. */
      installMs: DurationMs.min(1).optional(),
      /** Installed, until it activates; from when it may, where it is held back. */
      readyMs: DurationMs.min(1).optional(),
      /** From activation to the outcome. */
      trialMs: DurationMs.min(1).optional(),
    })
    .superRefine((deadlines, context) => {
      for (const name of ['fetchMs', 'installMs', 'readyMs', 'trialMs'] as const)
        if ((deadlines[name] ?? 0) > deadlines.outcomeMs)
          context.addIssue({
            code: 'custom',
            path: [name],
            message: `must be at most outcomeMs (${deadlines.outcomeMs}), which bounds the whole deployment`,
          });
    })
    .prefault({}),
  retries: z
    .strictObject({
      /** How often a device that failed for want of network, space or time is offered the release again; 0 never. */
      max: z.number().int().min(0).max(100).default(3),
      /** How long it waits before that, twice as long each time, up to a day. */
      coolDownMs: DurationMs.min(1_000).default(600_000),
    })
    .prefault({}),
  watch: z
    .strictObject({
      /**
       * For so long after its commit a device may still turn out to have failed, by its heartbeats; 0 watches no one.
       */
      watchMs: DurationMs.default(3_600_000),
      /** Unhealthy without interruption for so long is a failure. */
      unhealthyMs: DurationMs.min(1).default(300_000),
      /** Falling ill or starting again more often than this is a crash loop. */
      restartsMax: z.number().int().min(0).max(10_000).default(5),
    })
    .prefault({}),
  limits: z
    .strictObject({
      /** Offers per minute at most. */
      startsPerMinute: z.number().int().min(1).max(1_000_000).default(1_000),
      /** Devices that may be between offer and outcome at once. */
      atRiskMax: z.number().int().min(1).max(1_000_000).default(1_000_000),
    })
    .prefault({}),
  /**
   * Outside of these nothing is offered and nothing is activated; an install that runs may finish. None: any time is
   * good.
   */
  windows: z.array(MaintenanceWindow).max(8).default([]),
  /**
   * When what is installed is activated: by each device as soon as it can, by all from a time on, or when `rollout
   * activate` says so.
   */
  activation: z.union([z.literal('at-once'), z.literal('on-command'), Millis]).default('at-once'),
  /**
   * Whether a device must ask before it activates (`required`), or may do without when it cannot reach the server
   * (`when-reachable`): it then activates what was withdrawn while it was offline. By default only for activation at a
   * time.
   */
  confirm: z.enum(['required', 'when-reachable']).optional(),
  /** After a halt: wait for a person, or at once send the devices that committed back to what they ran before. */
  onHalt: z.enum(['hold', 'recall']).default('hold'),
  /** A rollout takes devices over from those with a lower number. */
  priority: z.number().int().min(0).max(100).default(50),
});
export type Policy = z.infer<typeof Policy>;

/** The cohorts of a rollout, in order, each with its waves. Without `waves`: everyone at once, at the judge's pace. */
export const CohortPlan = z.strictObject({
  cohort: Id,
  waves: z
    .array(WaveSize)
    .min(1)
    .max(32)
    .default([{ percent: 100 }]),
  /** Instead of the policy's. */
  windows: z.array(MaintenanceWindow).max(8).optional(),
  /** Devices that come to match while the rollout is open are enrolled into the last wave. */
  follow: z.boolean().optional(),
});
export type CohortPlan = z.infer<typeof CohortPlan>;

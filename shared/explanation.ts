/**
 * Why a rollout is where it is, in words and numbers: at this moment, and for each decision so far. Letters as in
 * docs/judge.md.
 */
import { z } from 'zod';
import { Id, Millis, Sha256 } from './ids.ts';
import { JudgeRule } from './policy.ts';

const count = z.number().int();

/** Everything that a decision is made from. Counts are without what a person acknowledged. */
export const DecisionInputs = z.object({
  rule: JudgeRule,
  /** 1/alpha: from this E on it halts; null under the simple rules. */
  evidenceToHalt: z.number().nullable(),
  groups: z.array(
    z.object({
      cohort: Id,
      compatible: Id,
      planned: count,
      /** Of those planned, the ones in waves that are open. */
      waiting: count,
      /** Offered, and nothing heard. */
      unaccepted: count,
      /** h */
      healthy: count,
      /** x */
      failed: count,
      undecided: count,
      /** n = h + x + undecided */
      judged: count,
      /** Told to wait before they activate. */
      installed: count,
      neverHeard: count,
      /**
       * E, pU, risk, and m: what may be offered beyond those that accepted, null where only the rate limits. Null under
       * the simple rules.
       */
      judge: z
        .object({ evidence: z.number(), upperBound: z.number(), risk: z.number(), grants: count.nullable() })
        .nullable(),
    }),
  ),
  acknowledged: z.object({ failed: count, neverHeard: count }),
  limits: z.object({
    atRisk: count,
    atRiskMax: count,
    startsPerMinute: count,
    /** Of `startsPerWindow` offers in `startWindowMs`. */
    startsLeft: count,
    startsPerWindow: count,
    startWindowMs: count,
  }),
  /** Of the present wave; `since`: when it was met. */
  gate: z
    .object({
      wave: count,
      reachable: count,
      committed: count,
      failed: count,
      neverHeard: count,
      needed: count,
      successShare: z.number(),
      soakMs: count,
      since: Millis.nullable(),
    })
    .nullable(),
  windows: z.array(z.object({ cohort: Id, open: z.boolean(), opensAt: Millis.nullable() })),
  activation: z.object({ when: z.union([z.enum(['at-once', 'on-command']), Millis]), activatedAt: Millis.nullable() }),
  endBy: Millis.nullable(),
  priority: count,
});
export type DecisionInputs = z.infer<typeof DecisionInputs>;

const reasons = z.array(z.object({ about: z.string(), sentence: z.string() }));
const waitsFor = z.array(z.object({ rollout: Id, devices: count }));

export const DecisionView = z.object({
  /** From 1, in the order in which they were made. */
  decision: count,
  at: Millis,
  /** Null, as `inputs`, where its record cannot be read any more. */
  by: z.string().nullable(),
  /** Kinds of audit lines, and `offered`, `nobody-free`, `held-by-...`, `gate-met`, `gate-missed`, `unreadable`. */
  kinds: z.array(z.string()),
  sentence: z.string(),
  reasons,
  inputs: DecisionInputs.nullable(),
  offered: count,
  skipped: count,
  withdrawn: count,
  /** Rollouts that had the devices, where fewer were free than it allowed. */
  waitsFor,
  /** Of the record, and of the one before, which it contains. */
  sha256: Sha256,
  previous: Sha256.nullable(),
  /** Entries of the audit log that it wrote. */
  audit: z.array(count),
  /** The entry of the audit log that says that all decisions before this one were pruned; null where they were not. */
  pruned: count.nullable(),
  /** With `verify`: what of it does not follow from its inputs, or from the audit log. */
  faults: z.array(z.string()).nullable(),
});
export type DecisionView = z.infer<typeof DecisionView>;

export const ExplanationView = z.object({
  rollout: Id,
  now: z.object({ at: Millis, explanation: z.string(), reasons, inputs: DecisionInputs, waitsFor }),
  /** Newest first. */
  items: z.array(DecisionView),
  /** With `verify`: what does not hold beside the faults of single decisions. */
  faults: z.array(z.string()).nullable(),
  next: z.string().nullable(),
});
export type ExplanationView = z.infer<typeof ExplanationView>;

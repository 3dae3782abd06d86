/** Why a rollout was halted, as data and in words. */

import { z } from 'zod';
import { unreachable } from '#shared/ids.ts';
import { plural, short, waveName } from './words.ts';

/**
 * A number that may have decimals. Canonical JSON knows only integers, so the audit log holds others as text (see
 * `auditLine`).
 */
const Decimal = z.union([
  z.number(),
  z
    .string()
    .regex(/^-?\d+(\.\d+)?(e[+-]?\d+)?$/)
    .transform(Number),
]);

const count = z.number().int().min(0);

/**
 * Why a rollout halted, with the figures that made it so: enough to reckon it again. `group` is `cohort/compatible`.
 */
export const HaltReason = z.discriminatedUnion('kind', [
  /** `evidence` is E of docs/judge.md, capped at `EVIDENCE_MAX`. */
  z.object({ kind: z.literal('evidence'), failed: count, offered: count, evidence: Decimal, group: z.string() }),
  /** `excess` is the failed devices beyond the tolerated share of those offered. */
  z.object({
    kind: z.literal('budget'),
    failed: count,
    offered: count,
    excess: Decimal,
    budget: Decimal,
    group: z.string(),
  }),
  z.object({ kind: z.literal('percentage'), failed: count, decided: count, percent: Decimal, limitPercent: Decimal }),
  /**
   * Too many of the wave have failed: even if everyone else commits, `needed` is out of reach. Or, with `reachable` 0:
   * no one of it was heard, and there is no evidence to open the next wave on.
   */
  z.object({
    kind: z.literal('gate-unreachable'),
    wave: count,
    committed: count,
    failed: count,
    reachable: count,
    needed: count,
    neverHeard: count,
  }),
  z.object({ kind: z.literal('release-withdrawn'), by: z.string() }),
]);
export type HaltReason = z.infer<typeof HaltReason>;

/** Why it halted: a main clause with the figures that made it so. */
export const sentenceOfHalt = (reason: HaltReason): string => {
  switch (reason.kind) {
    case 'evidence':
      return `${reason.failed} of ${plural(reason.offered, 'device')} failed in ${reason.group}, which is ${short(reason.evidence)} to 1 evidence of a failure rate above the tolerated one`;
    case 'budget':
      return `${reason.failed} of ${plural(reason.offered, 'device')} failed in ${reason.group}, ${short(reason.excess)} more than the tolerated share, which uses up the budget of ${short(reason.budget)}`;
    case 'percentage':
      return `${reason.failed} of ${plural(reason.decided, 'device')} failed (${short(reason.percent)} %), more than the ${short(reason.limitPercent)} % allowed`;
    case 'gate-unreachable':
      if (reason.reachable === 0)
        return `no one in ${waveName(reason.wave)} was heard: ${plural(reason.neverHeard, 'device')} never took the offer up and none committed, so there is no evidence to open the next wave on`;
      return `the gate of ${waveName(reason.wave)} is out of reach: ${reason.failed} of ${plural(reason.reachable, 'reachable device')} failed and ${reason.committed} committed, where ${reason.needed} must commit`;
    case 'release-withdrawn':
      return `${reason.by} withdrew the release`;
    default:
      return unreachable(reason);
  }
};

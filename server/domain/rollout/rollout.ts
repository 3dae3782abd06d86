/**
 * A rollout: one campaign of one release, wave by wave. Pure: `step` takes a rollout, what happened and the facts, and
 * returns the next rollout and its effects as data. Nothing here knows of a clock, a database or a socket.
 */
import { z } from 'zod';
import { Id, type Millis as MillisSchema } from '#shared/ids.ts';
import type { CohortPlan, Policy } from '#shared/policy.ts';

export type Millis = z.infer<typeof MillisSchema>;

/** What never changes after planning. */
export type RolloutPlan = {
  id: Id;
  product: Id;
  version: string;
  channel: Id;
  cohorts: CohortPlan[];
  policy: Policy;
  /** Number of devices in each wave, in order. */
  waveSizes: number[];
  /** Devices that the cohorts mean, but that had to be left out: unknown, not let in, or without a bundle for their compatible. */
  excluded?: number;
  /** Of those: devices that have committed a higher security counter. */
  belowFloor?: number;
  /** It takes devices of this rollout back. */
  recalls?: Id;
  /** It takes devices that drift back to what they should run. */
  reconciles?: true;
  createdAt: Millis;
  createdBy: string;
  /** From then on it offers to nobody, takes back what was not activated, and is over. */
  endBy?: Millis;
  /** When a person said that everybody may activate. The one thing of a plan, with the sizes of waves that follow their cohort, that changes later. */
  activatedAt?: Millis;
};

/** A number that may have decimals. Canonical JSON knows only integers, so the audit log holds others as text (see `auditLine`). */
const Decimal = z.union([
  z.number(),
  z
    .string()
    .regex(/^-?\d+(\.\d+)?(e[+-]?\d+)?$/)
    .transform(Number),
]);

const count = z.number().int().min(0);

/** Why a rollout halted, with the figures that made it so: enough to reckon it again. `group` is `cohort/compatible`. */
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
   * Too many of the wave have failed: even if everybody else commits, `needed` is out of reach. Or, with `reachable` 0:
   * nobody of it was heard, and there is no evidence to open the next wave on.
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

/** Why a running rollout offers nothing at present. It ends by itself. */
export type Hold =
  /** `risk` and `upperBound` as in docs/judge.md; `unaccepted`: devices of the group that have not answered their offer, and may accept at any moment. */
  | { kind: 'judge'; risk: number; upperBound: number; unaccepted: number; group: string }
  | { kind: 'at-risk-limit'; atRisk: number; limit: number }
  | { kind: 'rate-limit'; nextAt: Millis }
  /** Every device that could be offered to is outside of its maintenance window. */
  | { kind: 'window'; cohort: Id; opensAt: Millis | null }
  /** `installed` devices wait: for a command, until `at`, or for their windows. */
  | { kind: 'activation'; installed: number; waits: 'command' | 'time' | 'window'; at: Millis | null }
  | { kind: 'gate'; committed: number; needed: number; soakEndsAt: Millis | null };

/** Offers are counted in windows of a tenth of a minute, or longer where fewer than ten may start in a minute. */
export type StartWindow = {
  since: Millis;
  /** Devices of the rollout that were still planned when the window began. */
  planned: number;
};
/** Failures, and devices never heard, that a person acknowledged when resuming after a halt: set aside by judge and gate from then on. */
export type Acknowledged = {
  cohort: Id;
  compatible: Id;
  wave: number;
  failed: number;
  neverHeard: number;
  /** Names the failed ones; absent where there are too many to name. */
  deployments?: Id[];
};

/** Devices that run its release because of it are to go back; from `at` on, whoever commits late too. */
export type Recalled = {
  at: Millis;
  by: string;
  note: string;
  /** To this release instead of what each ran before; `approvals`: how many its channel asks for. */
  to?: { version: string; channel: Id; approvals: number };
};

export type RolloutState =
  | { state: 'draft' }
  /** `approvedBy`: whose approvals counted when the last one was given; `startAt`: not before this, even when all are there. */
  | { state: 'awaiting-approval'; needed: number; approvedBy: string[]; startAt: Millis }
  | { state: 'scheduled'; startAt: Millis }
  | {
      state: 'running';
      wave: number;
      waveSince: Millis;
      /** Since when the gate's share of successes has been met; null while it is not. */
      gateSince: Millis | null;
      hold: Hold | null;
      starts?: StartWindow;
      acknowledged?: Acknowledged[];
    }
  | { state: 'paused'; wave: number; since: Millis; by: string; note: string; acknowledged?: Acknowledged[] }
  | {
      state: 'halted';
      wave: number;
      since: Millis;
      reason: HaltReason;
      acknowledged?: Acknowledged[];
      recalled?: Recalled;
    }
  | { state: 'completed'; at: Millis; acknowledged?: Acknowledged[]; recalled?: Recalled }
  | { state: 'aborted'; at: Millis; by: string; note: string; acknowledged?: Acknowledged[]; recalled?: Recalled };

export type Rollout = RolloutPlan & { progress: RolloutState };

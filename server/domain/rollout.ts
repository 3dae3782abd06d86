/**
 * A rollout: one campaign of one release, wave by wave. Pure: `step` takes a rollout, what happened and the facts, and
 * returns the next rollout and its effects as data. Nothing here knows of a clock, a database or a socket.
 */

import type { z } from 'zod';
import type { Id, Millis as MillisSchema } from '#shared/ids.ts';
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
  createdAt: Millis;
  createdBy: string;
};

export type HaltReason =
  | { kind: 'evidence'; failed: number; offered: number; evidence: number; group: string }
  | { kind: 'budget'; failed: number; offered: number; excess: number; budget: number; group: string }
  | { kind: 'percentage'; failed: number; decided: number; percent: number; limitPercent: number }
  | { kind: 'gate-unreachable'; wave: number; committed: number; failed: number; reachable: number; needed: number }
  | { kind: 'release-withdrawn'; by: string };

/** Why a running rollout offers nothing at present. It ends by itself. */
export type Hold =
  | { kind: 'judge'; risk: number; upperBound: number; group: string }
  | { kind: 'at-risk-limit'; atRisk: number; limit: number }
  | { kind: 'rate-limit'; nextAt: Millis }
  | { kind: 'gate'; committed: number; needed: number; soakEndsAt: Millis | null };

/** Offers are counted in windows of a tenth of a minute, or longer where fewer than ten may start in a minute. */
export type StartWindow = {
  since: Millis /** Devices of the rollout that were still planned when the window began. */;
  planned: number;
};
/** Failures that a person acknowledged when resuming after a halt: set aside by judge and gate from then on. */
export type Acknowledged = { cohort: Id; compatible: Id; wave: number; failed: number };

export type RolloutState =
  | { state: 'draft' }
  | { state: 'awaiting-approval'; needed: number; approvedBy: string[] }
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
  | { state: 'halted'; wave: number; since: Millis; reason: HaltReason; acknowledged?: Acknowledged[] }
  | { state: 'completed'; at: Millis }
  | { state: 'aborted'; at: Millis; by: string; note: string };

export type Rollout = RolloutPlan & { progress: RolloutState };

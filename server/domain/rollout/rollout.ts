/**
 * A rollout: one campaign of one release, wave by wave. Pure: `step` takes a rollout, what happened and the facts, and
 * returns the next rollout and its effects as data. Nothing here knows of a clock, a database or a socket.
 */
import { Id, type Millis } from '#shared/ids.ts';
import type { CohortPlan, Policy } from '#shared/policy.ts';
import { HaltReason } from '../halt-reason.ts';

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
  /**
   * Devices that the cohorts mean, but that had to be left out: unknown, not let in, or without a bundle for their
   * compatible.
   */
  excluded?: number;
  /** Of those: devices that have committed a higher security counter. */
  belowFloor?: number;
  /** It takes devices of this rollout back. */
  recalls?: Id;
  /** It takes devices that drift back to what they should run. */
  reconciles?: true;
  createdAt: Millis;
  createdBy: string;
  /** From then on it offers to no one, takes back what was not activated, and is over. */
  endBy?: Millis;
  /**
   * When a person said that everyone may activate. The one thing of a plan, with the sizes of waves that follow their
   * cohort, that changes later.
   */
  activatedAt?: Millis;
};

/** Why a running rollout offers nothing at present. It ends by itself. */
export type Hold =
  /**
   * `risk` and `upperBound` as in docs/judge.md; `unaccepted`: devices of the group that have not answered their offer,
   * and may accept at any moment.
   */
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
/**
 * Failures, and devices never heard, that a person acknowledged when resuming after a halt: set aside by judge and gate
 * from then on.
 */
export type Acknowledged = {
  cohort: Id;
  compatible: Id;
  wave: number;
  failed: number;
  neverHeard: number;
  /** Names the failed ones; absent where there are too many to name. */
  deployments?: Id[];
};

/** Devices that run its release because of it are to go back; from `at` on, devices that commit late too. */
export type Recalled = {
  at: Millis;
  by: string;
  note: string;
  /** To this release instead of what each ran before; `approvals`: how many its channel asks for. */
  to?: { version: string; channel: Id; approvals: number };
};

export type RolloutState =
  | { state: 'draft' }
  /**
   * `approvedBy`: whose approvals counted when the last one was given; `startAt`: not before this, even when all are
   * there.
   */
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

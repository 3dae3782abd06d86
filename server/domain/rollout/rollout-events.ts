/** What can happen to a rollout, what has to be known to decide on it, and what a decision is made of. */
import type { Id, Millis } from '#shared/ids.ts';
import type { Refusal } from '#shared/problems.ts';
import type { AuditEvent } from '../audit.ts';
import type { OutcomeBin } from '../deployment/deployment.ts';
import type { Acknowledged, Recalled, Rollout } from './rollout.ts';

export type RolloutEvent =
  | { kind: 'tick' }
  | { kind: 'pause'; by: string; note: string }
  /**
   * From a halt it needs a note: the failures known at this moment are acknowledged by it, and set aside from then on.
   */
  | {
      kind: 'resume';
      by: string;
      note: string;
      /** Exactly these are acknowledged, instead of all known ones; `devices` are the new ones among them. */
      acknowledge?: { failures: Acknowledged[]; devices: Id[] };
    }
  /** `active`: the operators who may approve at this moment. */
  | { kind: 'approve'; by: string; note: string; active: string[] }
  | { kind: 'abort'; by: string; note: string }
  /** Every device that has installed it may activate it now, and those that install it later too. */
  | { kind: 'activate'; by: string; note: string }
  /** Its devices are to go back to what they ran before, or all `to` one release. */
  | { kind: 'recall'; by: string; note: string; to?: NonNullable<Recalled['to']> }
  /** The release that it rolls out was withdrawn. */
  | { kind: 'release-withdrawn'; by: string };

/** `bins`: all outcomes of this rollout, counted in bins of `binMsOf(policy)`, as they are at `now`. */
export type RolloutFacts = {
  now: Millis;
  bins: OutcomeBin[];
  /** What is left of the acknowledged failures (`stillAcknowledged`). Absent: all that the rollout knows of. */
  acknowledged?: Acknowledged[];
  /** Of the cohorts that have maintenance windows. Absent: none has. */
  windows?: WindowFacts[];
  /** Rollouts that take devices of this one back. Absent: it was not recalled, or they are not counted. */
  goingBack?: number;
};

/** Whether some planned device of the cohort is in its window now; otherwise when the first of them will be. */
export type WindowFacts = { cohort: Id; open: boolean; opensAt: Millis | null };

/**
 * Offer to at most so many planned devices of this wave and group. Over all offers of one step no limit is exceeded.
 */
export type Offer = { wave: number; cohort: Id; compatible: Id; atMost: number; acceptBy: Millis };

export type RolloutStep = {
  next: Rollout;
  offers: Offer[];
  /**
   * Withdraw every offer that was not acted on to the point of activation; `planned` devices too when the rollout ends.
   */
  withdraw: { reason: string; planned: boolean } | null;
  /** Plan again what a halt withdrew: a person who resumes means these devices too. */
  replan: boolean;
  audit: AuditEvent[];
  /** Devices that are held back until a command may activate. */
  activate?: boolean;
  /** When to tick next; null when nothing can happen by itself any more. */
  nextTickAt: Millis | null;
  /** Not null when the event is not possible in the present state; then nothing changes. */
  refused: Refusal | null;
};

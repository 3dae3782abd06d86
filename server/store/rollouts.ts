/** Rollouts and their deployments. */
import type { DeploymentState, OverdueClass } from '#shared/deployment.ts';
import type { Id, Millis, Sha256 } from '#shared/ids.ts';
import type { Instruction } from '#shared/messages.ts';
import type { OpenSpan } from '#shared/windows.ts';
import type { DeploymentRecord, OutcomeBin } from '../domain/deployment/deployment.ts';
import type { WatchedHealth } from '../domain/deployment/late-regression.ts';
import type { CoolingDown } from '../domain/deployment/retry.ts';
import type { SharingKey } from '../domain/device/boots.ts';
import type { Refusing } from '../domain/device/refusing.ts';
import type { RolloutPlan, RolloutState } from '../domain/rollout/rollout.ts';
import type { AuditLine } from './audit.ts';
import type { DecisionToKeep } from './decisions.ts';
import type { CohortRecord } from './devices.ts';
import type { Page } from './page.ts';

export type RolloutRecord = {
  plan: RolloutPlan;
  progress: RolloutState;
  nextTickAt: Millis | null;
  revision: number;
  /** The digest of the newest decision; absent before the first. Only the store moves it. */
  decided?: Sha256;
};

/** Everything of an install instruction but the deployment, which the store fills in for each device it offers to. */
export type InstructionTemplate = Omit<Extract<Instruction, { kind: 'install' }>, 'deployment'>;

/** What a device that has not activated is to be told instead, and for which time zone ('' for none). */
export type WindowRenewal = { deployment: Id; windows: OpenSpan[]; zone: string };

/**
 * Outside of its maintenance windows: devices of one cohort of a rollout that are in this time zone ('' where they
 * report none).
 */
export type ShutWindow = { rollout: Id; cohort: Id; zone: string };

/**
 * Offer the release to at most `atMost` planned deployments of this wave and group whose device is accepted and owned
 * by no other deployment: connected ones first, then by position. Those of the group that run exactly this manifest
 * already are `skipped` on the way, even where `atMost` is 0. A device that a running rollout of higher priority still
 * wants is left to it. Where these are not enough, devices are taken over from rollouts of lower priority as long as
 * they have not activated: there they are planned again.
 */
export type OfferRequest = {
  wave: number;
  cohort: Id;
  compatible: Id;
  atMost: number;
  acceptBy: Millis;
  instruction: InstructionTemplate;
  /** The digest of the decision that offers. */
  decision?: Sha256;
  /** Where rollouts that come first may not act now: there they keep no one from this one. */
  shutAbove?: ShutWindow[];
  /**
   * Only to devices in one of these time zones ('' for those that report none), each with the spans in which it may
   * act. Absent: at any time.
   */
  zones?: { zone: string; windows: OpenSpan[] }[];
};

/** `reached`: of overdue ones, the state they were in when they became so; null of all others. */
export type DeploymentCount = {
  wave: number;
  state: DeploymentState;
  overdue: OverdueClass | null;
  reached: DeploymentState | null;
  devices: number;
};

/** In whose name the store words the audit lines for rows that only it picks. */
export type AuditStamp = { kind: 'overdue'; rollout: Id; by: string };

/** A committed deployment, and how its device has been since. */
export type WatchedDeployment = { deployment: DeploymentRecord; health: WatchedHealth };

export type RolloutStore = {
  /** Devices that were shut out while the rollout was planned are withdrawn from it at once. */
  createRollout(rollout: RolloutRecord, deployments: DeploymentRecord[], audit: AuditLine[]): Promise<void>;
  /** Several at once, each with a cohort made for it: all, or none when a name is taken, which throws. */
  createRollouts(
    planned: { cohort: CohortRecord; rollout: RolloutRecord; deployments: DeploymentRecord[] }[],
    audit: AuditLine[],
  ): Promise<void>;
  getRollout(id: Id): Promise<RolloutRecord | undefined>;
  /** Newest first. */
  listRollouts(page: Page): Promise<RolloutRecord[]>;
  /** All rollouts of a release, newest first; the newest 1,000. */
  listRolloutsOf(product: Id, version: string): Promise<RolloutRecord[]>;
  /**
   * Not completed or aborted, in the order in which they get devices: highest priority first, then the oldest; at most
   * 1,000.
   */
  listOpenRollouts(): Promise<RolloutRecord[]>;
  listDueRollouts(now: Millis, limit: number): Promise<RolloutRecord[]>;
  /** Kept as counters in the transaction that changes a state. */
  countDeployments(rollout: Id): Promise<DeploymentCount[]>;
  /** The same, recounted from the rows: a periodic check of the counters. */
  recountDeployments(rollout: Id): Promise<DeploymentCount[]>;
  /** What these devices accepted and became overdue with, silent or stuck, and have not been offered anything since. */
  listLate(devices: Id[]): Promise<DeploymentRecord[]>;
  /**
   * Devices that never began to act on an offer: planned, or withdrawn or overdue before they accepted, and no earlier
   * attempt failed.
   */
  countUntouched(rollout: Id): Promise<number>;
  /** Devices that have its offer and report the attribute `refused`. */
  getRefusing(rollout: Id): Promise<Refusing>;
  /** Planned devices that are offered nothing because two devices use their key. */
  getSharingKey(rollout: Id, now: Millis): Promise<SharingKey>;
  /** Planned devices whose next attempt may not begin yet; undefined when there are none. */
  getCoolingDown(rollout: Id, now: Millis): Promise<CoolingDown | undefined>;
  getOutcomeBins(rollout: Id, binMs: number): Promise<OutcomeBin[]>;
  /**
   * Turns deployments past their deadline `overdue` (`never-heard` when nothing was accepted; `stuck` when the device
   * is connected, and was heard since, and lately; `silent` otherwise), at most `limit`, and returns them. All kinds
   * free their device, and supersede its desired document by `none`: a device that stays silent must be able to get
   * something new one day, and two rollouts may never own it at once.
   */
  markOverdue(rollout: Id, now: Millis, limit: number, auditOf: AuditStamp): Promise<DeploymentRecord[]>;
  /**
   * At start: deadlines before `until`, passed ones too, are moved to it; no one could report while the server was
   * away. How many they were.
   */
  extendDeadlines(until: Millis): Promise<number>;
  /**
   * The clock was set by `byMs`, to `now`: in rollouts that are not over, and for when devices were heard, the times
   * that something counts from move along. They are due at once. How many they were.
   */
  moveTimes(byMs: number, now: Millis, audit: AuditLine[]): Promise<{ rollouts: number; deployments: number }>;
  /**
   * The record half of "record, then act": saves the next state when `revision` still holds, makes the offers and
   * withdrawals that the step asked for, their desired documents and outbox lines, and the audit, all in one
   * transaction. Where `nextTickAt` is null but a deployment has a deadline, the rollout stays due at the earliest: no
   * one else keeps it.
   */
  saveRollout(save: {
    rollout: RolloutRecord;
    offers: OfferRequest[];
    /**
     * Withdraw everything offered and not yet activated (offered, fetching, installing, ready); `planned` too when the
     * rollout ends. Done before the offers.
     */
    withdraw: { reason: string; planned: boolean } | null;
    /** Record in the plan that everyone may activate, and tell those who wait for it. Done before the offers. */
    activate?: boolean;
    /**
     * Back to `planned` with what a halt (a `withdraw` without `planned`) withdrew of accepted devices, and no one has
     * moved since: what was withdrawn because a device was shut out, or by its own report, stays so. Done before the
     * offers.
     */
    replan: boolean;
    /** Kept in the same transaction, with what it led to. */
    decision?: DecisionToKeep;
    audit: AuditLine[];
    now: Millis;
    /** Ids of deployments; `withdrawn` without those that were only planned. */
  }): Promise<{ result: 'saved'; offered: Id[]; withdrawn: Id[]; skipped: Id[] } | { result: 'conflict' }>;
  /**
   * Deployments committed after `committedSince` whose device, by its heartbeats since, may not be well, at most
   * `limit`. A device that was offered something since is not watched any more.
   */
  listSuspects(rollout: Id, committedSince: Millis, limit: number): Promise<WatchedDeployment[]>;
  /** Those whose revision still holds, each with its audit lines. How many they were. */
  saveRegressions(moves: { next: DeploymentRecord; audit: AuditLine[] }[]): Promise<number>;
  /** Of these devices, those that have no deployment in the rollout. */
  listOutside(rollout: Id, devices: Id[]): Promise<Id[]>;
  /** Devices join the rollout, as it was read: the sizes of its waves grow with them, and it is due. */
  addDeployments(
    rollout: RolloutRecord,
    joined: DeploymentRecord[],
    audit: AuditLine[],
    now: Millis,
  ): Promise<'added' | 'conflict'>;
  /**
   * Which rollouts own the planned devices of this one or come first for them, and how many each; most first. One whose
   * window is shut comes first for no one.
   */
  listBlockers(rollout: Id, shutAbove: ShutWindow[]): Promise<{ rollout: Id; devices: number }[]>;
  /** The rollouts that run and come before this one. */
  listRunningAbove(rollout: Id): Promise<RolloutPlan[]>;
  /** Time zones that the planned devices of a rollout report, by cohort; '' for none. */
  listTimeZones(rollout: Id, who?: 'planned' | 'all'): Promise<{ cohort: Id; zone: string }[]>;
  /**
   * Ends the waits that are over: what is installed counts as accepted `now`, and has `withinMs` to activate. How many.
   */
  endWaits(rollout: Id, now: Millis, withinMs: number): Promise<number>;
  /**
   * Devices that have not activated and were told only of windows that are past, or of those of another time zone than
   * they report now.
   */
  listOutOfWindows(rollout: Id, now: Millis, limit: number): Promise<{ deployment: Id; cohort: Id; zone: string }[]>;
  /** Tells them of these instead. */
  renewWindows(renewals: WindowRenewal[], now: Millis): Promise<void>;
  listDeployments(
    filter: { rollout?: Id | undefined; device?: Id | undefined; state?: DeploymentState | undefined },
    page: Page,
  ): Promise<DeploymentRecord[]>;
  getDeployments(ids: Id[]): Promise<DeploymentRecord[]>;
};

/**
 * Where an install is: its states, what happens to it, and what is done about it. What leads where is in install.ts.
 */
import { z } from 'zod';
import { DeviceError } from '#shared/deployment.ts';
import { Millis } from '#shared/ids.ts';
import { Uptime } from '#shared/machine-uptime.ts';
import { Instruction, Signed } from '#shared/messages.ts';

const Slot = z.enum(['a', 'b']);

/** An instruction to install that this device has verified. */
export const Offer = z.object({
  /** Of the desired document that it came with. */
  seq: z.number().int().min(1),
  expires: Millis,
  install: Instruction.options[0],
});

export type Offer = z.infer<typeof Offer>;

const journey = {
  offer: Offer,
  /** When the present state was entered. */
  since: Millis,
  /** How many rows of the table this deployment has taken. */
  transitions: z.number().int().min(0),
};

const state = <const N extends string, S extends z.ZodRawShape>(name: N, fields: S) =>
  z.object({ state: z.literal(name), ...journey, ...fields });

/**
 * What is recorded in the journal. Fields that a later version adds must be optional: its predecessor reads them too.
 */
export const InstallState = z.discriminatedUnion('state', [
  z.object({ state: z.literal('idle') }),
  state('accepted', {}),
  /** For a local program's consent. */
  state('waiting', { slot: Slot }),
  /**
   * The standby slot is unbootable from here until it is verified, unless it turns out to hold what is wanted already.
   */
  state('fetching', { slot: Slot, began: Uptime.optional() }),
  /** Every artifact is on the disk and has the right digest; the slot is being written. */
  state('verified', { slot: Slot }),
  /** Installed, read back, not active. */
  state('ready', { slot: Slot }),
  state('activating', { slot: Slot }),
  /** `since` and `began` are when the trial began, also after restarts: its deadline is kept. */
  state('trial', { slot: Slot, began: Uptime.optional() }),
  state('committing', { slot: Slot }),
  /**
   * `commitStands`: the trial did not fail, so where the boot selector has committed it all the same, it is committed.
   */
  state('reverting', { slot: Slot, error: DeviceError, commitStands: z.literal(true).optional() }),
  state('verifying-revert', { slot: Slot, error: DeviceError }),
  /** The four outcomes. `receipt` is null until it is signed; it stays here until the server has acknowledged it. */
  state('committed', { receipt: Signed.nullable() }),
  state('reverted', { error: DeviceError, receipt: Signed.nullable() }),
  state('failed', { error: DeviceError, receipt: Signed.nullable() }),
  state('withdrawn', { receipt: Signed.nullable() }),
  state('reported', { outcome: z.enum(['committed', 'reverted', 'failed', 'withdrawn']) }),
]);

export type InstallState = z.infer<typeof InstallState>;

export type StateName = InstallState['state'];

export type Journey = Exclude<InstallState, { state: 'idle' }>;

export type InstallEvent = { at: number } & (
  | { kind: 'offered'; offer: Offer }
  /** The same deployment, in a document signed again. */
  | { kind: 'renewed'; offer: Offer }
  /** Something else is wanted now; it is offered again when this deployment has ended. */
  | { kind: 'superseded' }
  /** The instruction `none`. */
  | { kind: 'withdrawn'; seq: number }
  | { kind: 'restarted' }
  | { kind: 'manifest-checked'; slot: 'a' | 'b' }
  /** `time`: what time it is for windows, which need not be what the clock says. */
  | { kind: 'permitted'; time?: number; uptime?: Uptime }
  | { kind: 'confirmed'; time?: number }
  | { kind: 'fetched' | 'installed' }
  /** The standby slot holds exactly what is wanted, from before: nothing is fetched or written. */
  | { kind: 'found-installed' }
  /** The active slot does, committed, and it runs: there is nothing to do but to say so. */
  | { kind: 'found-running' }
  /** After the boot selector was written and the application started again: from which slot it runs now. */
  | { kind: 'booted-trial'; uptime: Uptime }
  | { kind: 'booted-other'; why: string }
  /** What the slots say after a restart: the selector was not written; a trial is pending; the slot is committed. */
  | { kind: 'found-untouched' | 'found-on-trial' | 'found-active' }
  | { kind: 'passed' | 'committed' | 'revert-verified' }
  | { kind: 'failed'; error: DeviceError }
  | { kind: 'signed'; receipt: Signed }
  | { kind: 'acknowledged' | 'cleaned' }
);

export type EventKind = InstallEvent['kind'];

/** Things to do, in order; what each needs is in the state that it goes with. agent/deployment/perform.ts does them. */
export type Effect =
  | 'boot' // start the application, from whatever slot is right
  | 'check-manifest'
  | 'await-permission'
  | 'fetch'
  | 'install'
  | 'recheck' // read the slot back again
  | 'confirm-offer'
  | 'inspect' // ask the slots
  | 'activate' // the boot selector's write, then boot-trial
  | 'boot-trial'
  | 'watch-trial'
  | 'commit'
  | 'revert'
  | 'verify-revert'
  | 'after-commit' // the hooks of that name
  | 'after-revert'
  | 'sign-receipt'
  | 'send-receipt'
  | 'clean-up';

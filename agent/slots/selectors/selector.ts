/**
 * A boot loader's word on which slot boots. The boot loader reads it before anything of ours runs, and counts a trial's
 * boots down in it; so it decides, and what the agent keeps beside it only explains.
 */
import type { SlotName } from '#agent/domain/slots.ts';

export type ImageSelection = {
  /** The committed slot, which boots when no trial has tries left. */
  active: SlotName;
  /** With no tries left the boot loader has given it up, or runs the last one. */
  trial: { slot: SlotName; triesLeft: number } | null;
};

export type SelectorRead = { state: 'read'; selection: ImageSelection } | { state: 'damaged'; why: string };

/** What is not as it should be. With a `grave` one nothing is installed. */
export type FitnessProblem = { grave: boolean; sentence: string };

/** More than any boot loader here can count. */
export const TRIES_MAX = 9;

/**
 * Every change is one durable step of its own: after a cut the selection is the old one or the new one. Methods throw
 * the system's error, or `SelectorFailed`; the selection is then still the old one, or the new one, and asking again
 * does no harm.
 */
export type ImageSelector = {
  /** Damaged: nothing may be written, in the selector or in a slot (faults 11). */
  read(): Promise<SelectorRead>;
  /** From here on no copy lets the boot loader boot this slot, whatever is torn later. Ends a trial of this slot. */
  disable(slot: SlotName): Promise<void>;
  /** The activation. `tries` above `TRIES_MAX` count as that. */
  setTrial(slot: SlotName, tries: number): Promise<void>;
  /** The slot becomes the active one; the other stays as the boot loader's last resort where it has such. */
  commit(slot: SlotName): Promise<void>;
  /** The trial's slot is not booted any more. With no trial: nothing. */
  revert(): Promise<void>;
  /**
   * The active slot has come up: it gets back the tries of boot loaders that count every boot. Mostly writes nothing.
   */
  keep(): Promise<void>;
  /**
   * Before a reboot into a trial: counts it where the boot loader does not, and says by which command; null: the
   * ordinary one.
   */
  arm(): Promise<string[] | null>;
  /** Whether this device's boot loader can be relied on. Writes nothing. */
  check(): Promise<FitnessProblem[]>;
};

/** The boot loader's tools did not do what they were asked for. */
export class SelectorFailed extends Error {
  override name = 'SelectorFailed';
}

/**
 * The slots port: everything that the install state machine asks of a device's A/B pair, whatever it is made of.
 * Every method is idempotent: after a crash it may be called again with the same arguments, and what it returns is durable.
 */
import type { DeviceErrorCode, Running } from '#shared/deployment.ts';
import type { Manifest } from '#shared/manifest.ts';

export type SlotName = 'a' | 'b';
export const other = (slot: SlotName): SlotName => (slot === 'a' ? 'b' : 'a');

export type SlotContent =
  /** Never written, or made unbootable for writing. */
  | { state: 'unbootable' }
  /** Written and read back; can be activated. */
  | { state: 'bootable'; running: Running; securityCounter: number };

export type SlotsView = {
  /** The committed slot, which boots when no trial is pending; null before the first commit. */
  active: SlotName | null;
  /** A pending or running trial; `triesLeft` counts boots still allowed, decremented durably before each boot. */
  trial: { slot: SlotName; triesLeft: number; deployment: string } | null;
  slots: Record<SlotName, SlotContent>;
};

export type SlotResult = { ok: true } | { ok: false; code: DeviceErrorCode; message: string };

/** A verified artifact on the device's own disk. */
export type FetchedArtifact = { name: string; file: string };

export type Slots = {
  /** What is durable about the pair; a damaged boot selector is `{ ok: false, code: 'PRECONDITION' }`, and nothing may be written then. */
  inspect(): Promise<{ ok: true; view: SlotsView } | { ok: false; code: DeviceErrorCode; message: string }>;
  /** Make the standby slot unbootable and empty, durably, before anything of it changes. Refuses the active slot. */
  prepare(slot: SlotName): Promise<SlotResult>;
  /** Write the standby slot and flush it. `TARGET_HASH`, `NO_SPACE`, `WRITE_FAILED`. */
  write(slot: SlotName, manifest: Manifest, manifestSha256: string, artifacts: FetchedArtifact[]): Promise<SlotResult>;
  /** Read the slot back from the disk, compare, and only then mark it bootable. `WRITE_VERIFY`. */
  verify(slot: SlotName): Promise<SlotResult>;
  /** The boot selector's one durable write: boot this slot next, on trial. Refuses a slot that is not bootable. */
  activate(slot: SlotName, trial: { tries: number; deployment: string }): Promise<SlotResult>;
  /** (Re)start the application from the slot that the selector names, counting a try down first; the directories adapter's "reboot". `booted` is what now runs. */
  boot(): Promise<{ booted: SlotName; trial: boolean } | { booted: null; why: string }>;
  /** Which slot runs now, by the evidence of the running system. */
  running(): Promise<{ slot: SlotName; trial: boolean } | null>;
  /** End the trial well: the trial slot becomes the active one. */
  commit(): Promise<SlotResult>;
  /** End the trial badly: forget it, so that the active slot boots next. With no trial pending: nothing. */
  revert(): Promise<SlotResult>;
  /** Stop the application, without touching the selector. */
  stop(): Promise<void>;
};

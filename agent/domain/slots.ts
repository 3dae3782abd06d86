/**
 * The slots port: everything that the install state machine asks of a device's A/B pair, whatever it is made of. Every
 * method is idempotent: after a crash it may be called again with the same arguments, and what it returns is durable.
 */
import type { DeviceErrorCode, Running } from '#shared/deployment.ts';
import type { Artifact, Manifest } from '#shared/manifest.ts';

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

/**
 * Bytes that a slot holds for sure, to make a newer artifact from: those of `artifact`, from the beginning of `file`.
 */
type SlotSeed = { file: string; artifact: Artifact };

/** What runs from the slots, as far as the agent itself runs it. The supervisor fits. */
export type WatchedProcess = {
  /** Null when it does not run now. `ranMs`: for how long it has, whatever was done to the clock. */
  running(): { ranMs?: number } | null;
  listen(listener: (exit: { code: number | null; signal: NodeJS.Signals | null }) => void): () => void;
};

export type Slots = {
  /**
   * What is durable about the pair; a damaged boot selector is `{ ok: false, code: 'PRECONDITION' }`, and nothing may
   * be written then.
   */
  inspect(): Promise<{ ok: true; view: SlotsView } | { ok: false; code: DeviceErrorCode; message: string }>;
  /**
   * Make the standby slot unbootable and empty, durably, before anything of it changes. Refuses the active slot, and
   * what can be known to be in vain (an image bigger than its slot) before it writes anything.
   */
  prepare(slot: SlotName, manifest?: Manifest): Promise<SlotResult>;
  /**
   * Where the artifact's bytes are to be assembled directly: from the beginning of `file`, which is there already and
   * as large as the slot. Only between `prepare` and `write`, which gets the same file. Absent, or undefined: in the
   * downloads folder.
   */
  place?(
    slot: SlotName,
    manifest: Manifest,
    artifact: Artifact,
  ): Promise<{ ok: true; file: string } | Extract<SlotResult, { ok: false }> | undefined>;
  /** What the active slot holds, as the bytes that were fetched; empty where it is kept in another form. */
  seeds?(): Promise<SlotSeed[]>;
  /**
   * Write the standby slot and flush it. `TARGET_HASH`, `NO_SPACE`, `WRITE_FAILED`. `signal` ends an installer that
   * takes its time; a refusal then means nothing.
   */
  write(
    slot: SlotName,
    manifest: Manifest,
    manifestSha256: string,
    artifacts: FetchedArtifact[],
    signal?: AbortSignal,
  ): Promise<SlotResult>;
  /**
   * Read the slot back from the disk, compare, and only then mark it bootable. `WRITE_VERIFY`. What it says after
   * `signal` was aborted means nothing.
   */
  verify(slot: SlotName, signal?: AbortSignal): Promise<SlotResult>;
  /** The boot selector's one durable write: boot this slot next, on trial. Refuses a slot that is not bootable. */
  activate(slot: SlotName, trial: { tries: number; deployment: string }): Promise<SlotResult>;
  /**
   * Boot the slot that the selector names. The directories adapter (re)starts the application from it, counting a try
   * down first. Where a slot boots the whole device this is a reboot, if another slot runs: it does not return then,
   * but for `signal` or a reboot that fails. `booted` is what now runs. `uncounted`: the trial was not begun, since its
   * try could not be counted: the disk's fault, and not the version's. `passedOver`: the deployment of a trial that is
   * over, though the selector could not forget it yet: the active slot boots.
   */
  boot(
    signal?: AbortSignal,
    passedOver?: string,
  ): Promise<
    ({ booted: SlotName; trial: boolean } | { booted: null; why: string }) & {
      uncounted?: Extract<SlotResult, { ok: false }>;
    }
  >;
  /**
   * The disk is full: lets go of what there is of a slot that is not finished, unless it is being written now. Absent
   * where slots have their own room.
   */
  letGo?(): Promise<void>;
  /** Which slot runs now, by the evidence of the running system. */
  running(): Promise<{ slot: SlotName; trial: boolean } | null>;
  /** End the trial well: the trial slot becomes the active one. */
  commit(): Promise<SlotResult>;
  /** End the trial badly: forget it, so that the active slot boots next. With no trial pending: nothing. */
  revert(): Promise<SlotResult>;
  /** Stop the application, without touching the selector. */
  stop(): Promise<void>;
  /** The working directory of hooks and command checks. */
  workFolder(slot: SlotName): string;
  /** Null where what runs from the slots is not run by the agent. */
  process: WatchedProcess | null;
};

/**
 * What all pairs that boot the whole device share, no matter what writes into their slots: what the boot selector and
 * the running system say together, and how a slot is filled.
 */
import type { Id } from '#shared/ids.ts';
import type { Artifact, Manifest } from '#shared/manifest.ts';
import type { SlotName, SlotResult } from '../domain/slots.ts';
import type { Log } from '../log.ts';
import { storageRefusal } from '../process/system-error.ts';
import { type ImageRecord, readTrialNote } from './image-record.ts';
import { type ImageSelection, type ImageSelector, SelectorFailed } from './selectors/selector.ts';

/** How a slot gets its content, and how that is found there again: by the agent itself, or by an installer. */
export type Filling = {
  /** The one artifact of a manifest that goes into a slot this way. */
  artifactOf(manifest: Manifest): { ok: true; artifact: Artifact } | Refused;
  /**
   * Whether the slot can be written now, and holds this artifact; before any write (faults 19). `file`: where its bytes
   * go.
   */
  check(slot: SlotName, artifact?: Artifact): Promise<{ ok: true; file?: string } | Refused>;
  /** `source` may be the slot's own file. Flushed when it resolves. */
  fill(
    slot: SlotName,
    artifact: Artifact,
    source: string,
    signal: AbortSignal,
  ): Promise<{ ok: true; stored?: NonNullable<ImageRecord['stored']> } | Refused>;
  /** Reads it back from the disk. */
  compare(slot: SlotName, record: ImageRecord, signal?: AbortSignal): Promise<SlotResult>;
  /** The slot's own file, if it holds the artifact's bytes as they were fetched. */
  seed?(slot: SlotName): Promise<string | undefined>;
  /** The artifact's bytes are assembled in the slot itself, at `check`'s file. */
  inPlace: boolean;
};

export type Rebooting = {
  reboot: string[];
  /** How long a reboot may take before it counts as failed. */
  rebootMs: number;
  /** A file that changes with every boot. */
  bootId: string;
};

export type BootPair = {
  /** Which slot the running system was booted from, by its own evidence. */
  runningSlot: () => Promise<SlotName | null>;
  filling: Filling;
  config: Rebooting;
  /** Records are kept here; the folder exists, and is on no slot. */
  dir: string;
  compatible: Id;
  selector: ImageSelector;
  log: Log;
  /** Of the boot that this process runs in. */
  bootId: string;
  /** Called after every durable step. */
  cut: (name: string) => void;
  /** The manifests that this process has read back from a slot since it was last written. */
  verified: Map<SlotName, string>;
};

export type Refused = Extract<SlotResult, { ok: false }>;
export type Selected = { ok: true; selection: ImageSelection; running: SlotName | null };

export const refuse = (message: string, code: Refused['code'] = 'PRECONDITION'): Refused => ({
  ok: false,
  code,
  message,
});
/** Nothing would be written, and whatever the slot held before would run in its name. */
export const isEmpty = ({ name, bytes }: Artifact): Refused | undefined =>
  bytes > 0 ? undefined : refuse(`${name} has no bytes: nothing of this release would be in the slot`);
export const DONE: SlotResult = { ok: true };

/** Which slot is active and which on trial, or why that cannot be told: then nothing at all is written (faults 11). */
export const select = async ({ selector, runningSlot, dir, bootId }: BootPair): Promise<Selected | Refused> => {
  const found = await selector.read();
  if (found.state === 'damaged') return refuse(`the boot selector cannot be relied on: ${found.why}`);
  const running = await runningSlot();
  const { selection } = found;
  if (selection.trial !== null || running === null || running === selection.active)
    return { ok: true, selection, running };
  // After a revert the reboot is still to come. Otherwise the boot loader could not boot the active slot: what it took
  // instead works, and stays.
  const note = await readTrialNote(dir);
  const rebootDue = note?.bootId === bootId;
  return { ok: true, selection: rebootDue ? selection : { active: running, trial: null }, running };
};

/** A change of the selector or of a record. A failure of the disk or of the boot loader's tools is a refusal. */
export const attempt = async (doing: string, act: () => Promise<void>): Promise<SlotResult> => {
  try {
    await act();
    return DONE;
  } catch (error) {
    if (error instanceof SelectorFailed) return refuse(`${doing}: ${error.message}`, 'WRITE_FAILED');
    return storageRefusal(error, doing);
  }
};

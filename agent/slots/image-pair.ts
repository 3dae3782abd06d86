/** What the parts of the image adapter share: its options, and what the boot selector and the running system say together. */
import type { Id } from '#shared/ids.ts';
import type { Log } from '../log.ts';
import { storageRefusal } from '../system-error.ts';
import { readTrialNote } from './image-record.ts';
import { findRunningSlot } from './running-slot.ts';
import { type ImageSelection, type ImageSelector, SelectorFailed } from './selectors/selector.ts';
import type { SlotName, SlotResult } from './slots.ts';
import type { ImageConfig } from './slots-config.ts';

export type ImagePair = {
  config: ImageConfig;
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
export const DONE: SlotResult = { ok: true };

/** Which slot is active and which on trial, or why that can not be told: then nothing at all is written (faults 11). */
export const select = async ({ selector, config, dir, bootId }: ImagePair): Promise<Selected | Refused> => {
  const found = await selector.read();
  if (found.state === 'damaged') return refuse(`the boot selector can not be relied on: ${found.why}`);
  const running = await findRunningSlot(config);
  const { selection } = found;
  if (selection.trial !== null || running === null || running === selection.active)
    return { ok: true, selection, running };
  // After a revert the reboot is still to come. Otherwise the boot loader could not boot the active slot: what it took instead works, and stays.
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

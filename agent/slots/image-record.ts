/**
 * What is known of an image pair beside what its boot selector says: what each slot was written with,
 * `<slot>.image.json`, without which the slot is not bootable; and `trial.json`, which explains the selector's trial
 * and is never believed over it.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { Running } from '#shared/deployment.ts';
import { readFileIfThere, syncFolder, writeFileDurably } from '#shared/durable.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import { Artifact } from '#shared/manifest.ts';
import type { SlotContent, SlotName } from '../domain/slots.ts';
import { seal, unseal } from './sealed.ts';

const ImageRecord = z.object({
  format: z.literal(1),
  /** `written`: not read back yet, and so not bootable. */
  state: z.enum(['written', 'bootable']),
  running: Running,
  securityCounter: z.number().int().min(0),
  artifact: Artifact,
  /**
   * What an installer made of it, where that can be read back: so many bytes at the beginning of each of these files.
   */
  stored: z
    .array(z.object({ file: z.string().max(4096), bytes: z.number().int().min(0), sha256: Sha256 }))
    .max(32)
    .optional(),
});
export type ImageRecord = z.infer<typeof ImageRecord>;

export const contentOf = (record: ImageRecord | undefined): SlotContent =>
  record?.state === 'bootable'
    ? { state: 'bootable', running: record.running, securityCounter: record.securityCounter }
    : { state: 'unbootable' };

const recordFile = (dir: string, slot: SlotName): string => join(dir, `${slot}.image.json`);

/** Undefined when there is none, or it is damaged. */
export const readImageRecord = async (dir: string, slot: SlotName): Promise<ImageRecord | undefined> => {
  const bytes = await readFileIfThere(recordFile(dir, slot));
  const record = bytes === undefined ? undefined : unseal(bytes, ImageRecord);
  return record?.running.slot === slot ? record : undefined;
};

export const writeImageRecord = (dir: string, record: ImageRecord): Promise<void> =>
  writeFileDurably(recordFile(dir, record.running.slot), seal(record));

export const removeImageRecord = async (dir: string, slot: SlotName): Promise<void> => {
  await rm(recordFile(dir, slot), { force: true });
  await syncFolder(dir);
};

const TrialNote = z.object({
  format: z.literal(1),
  /** Null once the trial was reverted. */
  trial: z.object({ slot: z.enum(['a', 'b']), deployment: Id }).nullable(),
  /** The boot in which the selector was changed, or that it last asked to end. */
  bootId: z.string().max(128),
  /** How often the device was rebooted for this trial. */
  reboots: z.number().int().min(0),
});
export type TrialNote = z.infer<typeof TrialNote>;

const noteFile = (dir: string): string => join(dir, 'trial.json');

export const readTrialNote = async (dir: string): Promise<TrialNote | undefined> => {
  const bytes = await readFileIfThere(noteFile(dir));
  return bytes === undefined ? undefined : unseal(bytes, TrialNote);
};

export const writeTrialNote = (dir: string, note: TrialNote): Promise<void> =>
  writeFileDurably(noteFile(dir), seal(note));

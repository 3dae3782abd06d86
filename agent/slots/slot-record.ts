/**
 * What is known of one slot, beside its folder so that the application's tree stays clean: `<slot>.json`, without which
 * the slot is unbootable, and `<slot>.files`, the list of all that belongs into it, with digests.
 */

import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { Running } from '#shared/deployment.ts';
import { readFileIfThere, syncFolder, writeFileDurably } from '#shared/durable.ts';
import { Sha256 } from '#shared/ids.ts';
import { Manifest } from '#shared/manifest.ts';
import type { SlotName } from '../domain/slots.ts';
import { seal, unseal } from './sealed.ts';

const SlotRecord = z.object({
  format: z.literal(1),
  /** `written`: not read back yet, and so not bootable. */
  state: z.enum(['written', 'bootable']),
  running: Running,
  securityCounter: z.number().int().min(0),
  run: Manifest.shape.run.unwrap().nullable(),
  agent: Manifest.shape.agent,
  /** The digest of the list of files. */
  files: Sha256,
});
export type SlotRecord = z.infer<typeof SlotRecord>;

export const slotFolder = (dir: string, slot: SlotName): string => join(dir, slot);
export const fileListOf = (dir: string, slot: SlotName): string => join(dir, `${slot}.files`);
const recordFile = (dir: string, slot: SlotName): string => join(dir, `${slot}.json`);

/** Undefined when there is none, or it is damaged: the slot is unbootable then. */
export const readSlotRecord = async (dir: string, slot: SlotName): Promise<SlotRecord | undefined> => {
  const bytes = await readFileIfThere(recordFile(dir, slot));
  const record = bytes === undefined ? undefined : unseal(bytes, SlotRecord);
  return record?.running.slot === slot ? record : undefined;
};

export const writeSlotRecord = (dir: string, record: SlotRecord): Promise<void> =>
  writeFileDurably(recordFile(dir, record.running.slot), seal(record));

/** The one durable step that makes a slot unbootable. */
export const removeSlotRecord = async (dir: string, slot: SlotName): Promise<void> => {
  await rm(recordFile(dir, slot), { force: true });
  await syncFolder(dir);
};

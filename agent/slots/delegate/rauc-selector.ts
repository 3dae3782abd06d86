/**
 * RAUC as a boot selector. Its boot loader's word on what boots next counts; what RAUC does not keep, which slot is
 * committed and which one is tried, is in `rauc.json`. A trial is recorded before RAUC is told of it, so that a slot on
 * trial is never taken for a committed one.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { SlotName } from '#agent/domain/slots.ts';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { seal, unseal } from '../sealed.ts';
import { type ImageSelection, type ImageSelector, SelectorFailed, type SelectorRead } from '../selectors/selector.ts';
import type { RaucClient, RaucStatus } from './rauc-client.ts';

const Slot = z.enum(['a', 'b']);
const Note = z.object({
  format: z.literal(1),
  active: Slot,
  /** `bootId`: the boot in which it was set. */
  trial: z.object({ slot: Slot, bootId: z.string().max(128) }).nullable(),
});
type Note = z.infer<typeof Note>;

export type RaucSelectorOptions = { client: RaucClient; dir: string; bootIdFile: string };

export const raucSelector = ({ client, dir, bootIdFile }: RaucSelectorOptions): ImageSelector => {
  const file = join(dir, 'rauc.json');
  const bootId = async (): Promise<string> => (await readFile(bootIdFile, 'utf8').catch(() => '')).trim();
  const write = (note: Omit<Note, 'format'>): Promise<void> => writeFileDurably(file, seal({ format: 1, ...note }));

  const load = async (): Promise<{ status: RaucStatus; note: Note | undefined; selection: ImageSelection }> => {
    const status = await client.status();
    const bytes = await readFileIfThere(file);
    const note = bytes === undefined ? undefined : unseal(bytes, Note);
    if (bytes !== undefined && note === undefined) throw new SelectorFailed(`${file} is damaged`);
    const active = note?.active ?? status.booted ?? status.primary;
    if (active === null) throw new SelectorFailed('RAUC does not say which slot is booted');
    return { status, note, selection: { active, trial: trialOf(status, active, note?.trial ?? null, await bootId()) } };
  };

  return {
    read: async (): Promise<SelectorRead> => {
      try {
        return { state: 'read', selection: (await load()).selection };
      } catch (error) {
        if (error instanceof SelectorFailed) return { state: 'damaged', why: error.message };
        throw error;
      }
    },
    disable: async (slot) => {
      const { status, note, selection } = await load();
      if (status.primary === slot) await client.mark('active', status.names[selection.active]);
      await client.mark('bad', status.names[slot]);
      if (note?.trial?.slot === slot) await write({ active: selection.active, trial: null });
    },
    setTrial: async (slot) => {
      const { status, selection } = await load();
      await write({ active: selection.active, trial: { slot, bootId: await bootId() } });
      await client.mark('active', status.names[slot]);
    },
    commit: async (slot) => {
      const { status } = await load();
      await client.mark('good', status.names[slot]);
      // On its last try the boot loader would boot the other one next.
      await client.mark('active', status.names[slot]);
      await write({ active: slot, trial: null });
    },
    revert: async () => {
      const { status, selection, note } = await load();
      const slot = selection.trial?.slot ?? note?.trial?.slot;
      if (slot === undefined) return;
      await client.mark('active', status.names[selection.active]);
      await client.mark('bad', status.names[slot]);
      await write({ active: selection.active, trial: null });
    },
    keep: async () => {
      const { status, selection } = await load();
      if (status.booted === selection.active) await client.mark('good', status.names[selection.active]);
    },
    arm: async () => null,
    check: async () => {
      try {
        await load();
        return [];
      } catch (error) {
        if (error instanceof SelectorFailed) return [{ grave: true, sentence: error.message }];
        throw error;
      }
    },
  };
};

const trialOf = (
  { booted, primary }: RaucStatus,
  active: SlotName,
  noted: Note['trial'],
  bootId: string,
): ImageSelection['trial'] => {
  if (noted === null) return null;
  const { slot } = noted;
  // RAUC keeps the number of tries to itself.
  if (primary === slot && slot !== active) return { slot, triesLeft: 1 };
  // Only the boot loader gives a trial up; in the boot in which it was set it was not told of it yet.
  if (noted.bootId === bootId && booted !== slot) return null;
  return { slot, triesLeft: 0 };
};

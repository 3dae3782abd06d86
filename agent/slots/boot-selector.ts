/**
 * The boot selector of the directories adapter: which slot is committed, and which is on trial. Two copies,
 * `boot.0.json` and `boot.1.json`, as in U-Boot's redundant environment: a write replaces the older one and never
 * touches the newest, so a torn or damaged newest copy falls back to the state before it (faults 10). With no readable
 * copy nothing may be written (faults 11).
 */
import { join } from 'node:path';
import { z } from 'zod';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { Id } from '#shared/ids.ts';
import type { SlotsView } from '../domain/slots.ts';
import { seal, unseal } from './sealed.ts';

const SlotName = z.enum(['a', 'b']);
const Copy = z.object({
  format: z.literal(1),
  /** Grows by one with every write: the greater copy is the newer. */
  generation: z.number().int().min(1),
  active: SlotName.nullable(),
  trial: z.object({ slot: SlotName, triesLeft: z.number().int().min(0).max(100), deployment: Id }).nullable(),
});
type Copy = z.infer<typeof Copy>;

export type Selection = Pick<SlotsView, 'active' | 'trial'>;

/** `absent`: never written. `damaged`: written once, and no copy can be read now. */
type SelectorState = { state: 'read'; selection: Selection } | { state: 'absent' } | { state: 'damaged' };

export type BootSelector = {
  read(): Promise<SelectorState>;
  /** One durable write. Throws the system's error; the selection is then still the old one. */
  write(selection: Selection): Promise<void>;
  /**
   * Makes both copies say the same. Due before a slot is made unbootable: the older copy may still name it as the
   * active one. Throws the system's error.
   */
  settle(): Promise<void>;
};

export const openBootSelector = (dir: string): BootSelector => {
  const files = [join(dir, 'boot.0.json'), join(dir, 'boot.1.json')] as const;

  const load = async (): Promise<{ copies: (Copy | undefined)[]; newest: Copy | undefined; written: boolean }> => {
    const bytes = await Promise.all(files.map((file) => readFileIfThere(file)));
    const copies = bytes.map((copy) => (copy === undefined ? undefined : unseal(copy, Copy)));
    const newest = copies.reduce((best, copy) => ((copy?.generation ?? 0) > (best?.generation ?? 0) ? copy : best));
    return { copies, newest, written: bytes.some((copy) => copy !== undefined) };
  };

  const write = async (selection: Selection): Promise<void> => {
    const { copies, newest } = await load();
    const generation = (newest?.generation ?? 0) + 1;
    const copy = { format: 1, generation, active: selection.active, trial: selection.trial };
    await writeFileDurably(files[copies[0] !== undefined && copies[0] === newest ? 1 : 0], seal(copy));
  };

  return {
    read: async () => {
      const { newest, written } = await load();
      if (newest === undefined) return { state: written ? 'damaged' : 'absent' };
      return { state: 'read', selection: { active: newest.active, trial: newest.trial } };
    },
    write,
    settle: async () => {
      const { copies, newest } = await load();
      if (newest === undefined) throw new Error(`there is no boot selector in ${dir}`);
      const agreed = copies.every((copy) => copy !== undefined && sameSelection(copy, newest));
      if (!agreed) await write(newest);
    },
  };
};

const sameSelection = (one: Selection, two: Selection): boolean =>
  one.active === two.active &&
  one.trial?.slot === two.trial?.slot &&
  one.trial?.triesLeft === two.trial?.triesLeft &&
  one.trial?.deployment === two.trial?.deployment;

/** What the agent lets go of so that others, and its own journal, have room: only what it can fetch or write again. */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { InstallState } from '../domain/install-state.ts';
import type { Slots } from '../domain/slots.ts';
import { isFull } from '../process/system-error.ts';
import type { Journal } from './journal.ts';

/** Left by a cut between writing and renaming (shared/durable.ts); nothing reads them. */
const TEMPORARY = /\.[0-9a-f]{8}\.tmp$/;
const FOLDERS = ['.', 'trust', 'kept-logs', 'supervisor'];

/** Never throws. Only while nothing else of the agent runs: what is being written is a temporary, too. */
export const removeLeftovers = async (dataDir: string): Promise<void> => {
  for (const folder of FOLDERS) {
    const names = await readdir(join(dataDir, folder)).catch(() => []);
    for (const name of names.filter((one) => TEMPORARY.test(one)))
      await rm(join(dataDir, folder, name), { force: true }).catch(() => undefined);
  }
};

/**
 * The same journal. When the disk is so full that not even its reserve helps, it is tried once more without downloads
 * that nothing needs, without what is kept for saving the network, and without what there is of a slot that is not
 * finished.
 */
export const makingWay = (
  dataDir: string,
  slots: Pick<Slots, 'letGo'>,
  journal: Journal,
  /** Hears of every refusal. */
  missed: (what: string, error: unknown) => void = () => undefined,
): { journal: Journal; makeWay: (install: InstallState) => Promise<void> } => {
  let hasBegun = false;
  const remove = (name: string): Promise<void> =>
    rm(join(dataDir, name), { recursive: true, force: true }).catch(() => undefined);

  const makeWay = async ({ state }: InstallState): Promise<void> => {
    await slots.letGo?.().catch(() => undefined);
    // As long as nothing of this life is recorded, nothing is being fetched either. What is fetched already is about to
    // be written.
    if (state !== 'verified' && (state !== 'fetching' || !hasBegun)) await remove('downloads');
    await remove('artifacts');
  };
  const append: Journal['append'] = async (memory) => {
    try {
      await journal.append(memory);
    } catch (error) {
      missed('the journal', error);
      if (!isFull(error)) throw error;
      await makeWay(memory.install);
      await journal.append(memory);
    }
    hasBegun = true;
  };
  return { journal: { ...journal, append }, makeWay };
};

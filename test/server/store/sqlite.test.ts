import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openInProcessStore } from '#server/store/sqlite/open.ts';
import type { Store } from '#server/store/store.ts';
import { describeStore } from './contract.ts';

/**
 * Whatever goes in or comes out is what remains of it on the way to another thread and back. A thread for each test
 * takes minutes.
 */
const copying = (store: Store): Store => {
  const methods = Object.entries(store) as [string, (...args: unknown[]) => Promise<unknown>][];
  const copied = methods.map(([name, method]) => [
    name,
    async (...args: unknown[]) => structuredClone(await method(...structuredClone(args))),
  ]);
  return Object.fromEntries(copied) as Store;
};

describeStore('SQLite on disk, as from another thread', async (): Promise<Store> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-store-'));
  const store = copying(openInProcessStore(join(dir, 'sluice.db')));
  return {
    ...store,
    close: async () => {
      await store.close();
      await rm(dir, { recursive: true });
    },
  };
});
describeStore('SQLite in-process, in memory', async () => openInProcessStore(':memory:'));

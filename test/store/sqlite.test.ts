import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openInProcessStore, openSqliteStore } from '#server/store/sqlite/open.ts';
import type { Store } from '#server/store/store.ts';
import { describeStore } from './contract.ts';

describeStore('SQLite in its worker, on disk', async (): Promise<Store> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-store-'));
  const store = await openSqliteStore(join(dir, 'sluice.db'));
  return {
    ...store,
    close: async () => {
      await store.close();
      await rm(dir, { recursive: true });
    },
  };
});
describeStore('SQLite in-process, in memory', async () => openInProcessStore(':memory:'));

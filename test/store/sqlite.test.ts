import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openInProcessStore, openSqliteStore } from '#server/store/sqlite/open.ts';
import type { Store } from '#server/store/store.ts';
import { describeStore } from './contract.ts';

describeStore('SQLite in its worker', () => openSqliteStore(':memory:'));
describeStore('SQLite in-process', async () => openInProcessStore(':memory:'));
describeStore('SQLite in-process on disk', async (): Promise<Store> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-store-'));
  const store = openInProcessStore(join(dir, 'sluice.db'));
  return {
    ...store,
    close: async () => {
      await store.close();
      await rm(dir, { recursive: true });
    },
  };
});

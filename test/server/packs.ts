/**
 * The packs of a server that runs in this process, as its database has them: it makes them in a thread of its own, in
 * its own time.
 */
import Database from 'better-sqlite3';
import { inDataFolder } from '#server/data-folder.ts';
import type { Manifest } from '#shared/manifest.ts';
import { until } from '#test/agent/harness.ts';

/** Until so many lead to the only artifact of this release. */
export const packsMade = async (dataDir: string, { artifacts }: Manifest, packs: number): Promise<void> => {
  const index = artifacts[0]!.chunks!.index;
  const database = new Database(inDataFolder(dataDir).database, { readonly: true });
  try {
    const made = database.prepare('SELECT from_index, level FROM packs WHERE to_index = ?');
    await until(
      'the packs are made',
      () => made.all(index).length >= packs,
      60_000,
      () => made.all(index),
    );
  } finally {
    database.close();
  }
};

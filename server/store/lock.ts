/**
 * One server per data folder. The lock is a file lock that the kernel holds for the process, taken through SQLite
 * because Node offers none: whatever kills the process frees it, so that there is no stale lock to clear by hand.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { accept, type Result, refuse } from '#shared/problems.ts';

export type FolderLock = { release(): void };

const holderOf = (file: string): string => {
  try {
    return ` (process ${readFileSync(file, 'utf8').trim()})`;
  } catch {
    return ''; // Only for people: the holder may be about to write it, or to remove it.
  }
};

/**
 * Takes the data folder, which is made if need be, for this process; refuses `conflict` when another server, or this
 * one, holds it.
 */
export const lockDataFolder = (dir: string): Result<FolderLock> => {
  mkdirSync(dir, { recursive: true });
  const holder = join(dir, 'server.pid');
  const database = new Database(join(dir, 'lock.db'), { timeout: 0 });
  try {
    // In this mode SQLite does not give a lock back at the end of a transaction, only when the file is closed.
    database.pragma('locking_mode = EXCLUSIVE');
    database.exec('BEGIN EXCLUSIVE; COMMIT');
  } catch (error) {
    database.close();
    if (!(error instanceof Database.SqliteError) || error.code !== 'SQLITE_BUSY') throw error;
    return refuse('conflict', `another Sluice server${holderOf(holder)} uses the data folder ${dir}`);
  }
  writeFileSync(holder, `${process.pid}\n`);
  return accept({
    release: () => {
      rmSync(holder, { force: true });
      database.close();
    },
  });
};

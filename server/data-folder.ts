/** The data folder: everything a server keeps, readable by its user only. docs/operations.md lists what is in it. */
import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';
import { writeFileDurably } from '#shared/durable.ts';
import { makeFolder } from '#shared/make-folder.ts';
import { StartFailure } from './start-failure.ts';
import { type FolderLock, lockDataFolder } from './store/lock.ts';

export const inDataFolder = (dir: string) => ({
  keys: join(dir, 'keys'),
  repository: join(dir, 'tuf'),
  database: join(dir, 'sluice.db'),
  /** Made at the first start, for people on this machine; `sluice login` may read it, and it may be deleted. */
  adminToken: join(dir, 'admin-token'),
});

/** Makes the folder and takes it for this process, or says in words why that is not possible. */
export const takeDataFolder = (dir: string): FolderLock => {
  let lock: ReturnType<typeof lockDataFolder>;
  try {
    makeFolder(dir);
    accessSync(dir, constants.R_OK | constants.W_OK | constants.X_OK);
    lock = lockDataFolder(dir);
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : 'unknown error';
    throw new StartFailure(`the data folder ${dir} cannot be used (${code}): choose another with --data-dir`, cause);
  }
  if (!lock.ok) throw new StartFailure(lock.detail);
  return lock.value;
};

export const writeAdminToken = (dir: string, token: string): Promise<void> =>
  writeFileDurably(inDataFolder(dir).adminToken, `${token}\n`, 0o600);

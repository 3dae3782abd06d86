/** Folders that only their user reads. */
import { chmodSync, existsSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';

/**
 * Makes `dir` and what is missing above it, for their owner only; one that was there keeps its mode. Throws the error
 * of the system. Not by `mkdir` with `recursive`, which never returns where a parent exists but nothing can be made in
 * it (/proc).
 */
export const makeFolder = (dir: string): void => {
  if (existsSync(dir)) return;
  if (dirname(dir) !== dir) makeFolder(dirname(dir));
  try {
    mkdirSync(dir, { mode: 0o700 });
    chmodSync(dir, 0o700); // whatever the umask says
  } catch (error) {
    // Someone else may have made it in between.
    if (!existsSync(dir)) throw error;
  }
};

/** Files that survive a power cut: at any moment the old content is there, or the new, and never a part of it. */
import { randomBytes } from 'node:crypto';
import { open, readFile, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';

/**
 * Replaces `file` by `bytes`: a temporary beside it, fsync, rename, fsync of the folder. The folder must exist. When
 * this resolves, the new content is on the disk; when it rejects, the old one is untouched. `mode` is for the new file.
 * A crash may leave `<file>.<8 hex digits>.tmp` behind, which nothing reads.
 */
export const writeFileDurably = async (file: string, bytes: string | Uint8Array, mode = 0o644): Promise<void> => {
  const temporary = `${file}.${randomBytes(4).toString('hex')}.tmp`;
  try {
    const handle = await open(temporary, 'wx', mode);
    try {
      await handle.writeFile(bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
  } catch (cause) {
    // What cannot be removed either is no news.
    await rm(temporary, { force: true }).catch(() => undefined);
    throw cause;
  }
  await syncFolder(dirname(file));
};

/** Makes renames, creations and removals in the folder durable. */
export const syncFolder = async (dir: string): Promise<void> => {
  const handle = await open(dir, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
};

/** The content, or undefined when there is no such file. */
export const readFileIfThere = async (file: string): Promise<Buffer | undefined> => {
  try {
    return await readFile(file);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
};

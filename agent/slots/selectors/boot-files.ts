/**
 * Files that a boot loader reads, often from FAT. Linux writes the FAT entry of a renamed file (where its content
 * begins, how long it is) only with the file's own flush after the rename, and GRUB reads no journal: so what is there
 * is overwritten where it is, and what is new is flushed under its new name too.
 */
import { open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errorCode } from '#agent/process/system-error.ts';
import { syncFolder, writeFileDurably } from '#shared/durable.ts';

/**
 * Overwrites a file of the same length where it is, durably; false when there is none. A disk writes a sector whole or
 * not at all.
 */
export const overwrite = async (file: string, bytes: Buffer): Promise<boolean> => {
  const handle = await open(file, 'r+').catch((error: unknown) => {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  });
  if (handle === undefined) return false;
  try {
    if ((await handle.stat()).size !== bytes.length) return false;
    await handle.write(bytes, 0, bytes.length, 0);
    await handle.datasync();
    return true;
  } finally {
    await handle.close();
  }
};

/** A file that is not there yet; after a cut it may be there, and empty. */
export const createFile = async (file: string, bytes: string | Buffer): Promise<void> => {
  await writeFileDurably(file, bytes);
  const handle = await open(file, 'r+');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
  await syncFolder(dirname(file));
};

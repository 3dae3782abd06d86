/** What is kept beside a download to save the network, and never believed. */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Not flushed: its reader checks it. */
export const writeHint = async (file: string, bytes: Buffer): Promise<void> => {
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, bytes, { mode: 0o600 });
};

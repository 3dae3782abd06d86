/** Whether an update fits on the disk, before any of it is fetched (faults 18, 19). */
import { mkdir, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { Artifact } from '#shared/manifest.ts';

/** Left free for everything else on that disk: the journal, logs, the application's data. */
const RESERVE_BYTES = 4 * 1024 * 1024;

/** What is still to be written: downloads, and trees once more when they are unpacked; a single file is linked into its slot. */
const bytesWanted = async (dir: string, artifacts: readonly Artifact[]): Promise<number> => {
  let wanted = 0;
  for (const { sha256, bytes, install } of artifacts) {
    for (const name of [sha256, `${sha256}.part`])
      wanted -= Math.min(bytes, (await stat(join(dir, name)).catch(() => undefined))?.size ?? 0);
    wanted += install.kind === 'tree' ? 2 * bytes : bytes;
  }
  return Math.max(0, wanted);
};

/** How much may still be written to the disk with this folder. */
export type FreeBytes = (dir: string) => Promise<number>;
const freeOn: FreeBytes = async (dir) => {
  const { bavail, bsize } = await statfs(dir);
  return bavail * bsize;
};

/** `dir`: where downloads are; made if it is not there. Throws the system's error. */
export const lacksRoom = async (
  dir: string,
  artifacts: readonly Artifact[],
  freeBytes: FreeBytes = freeOn,
): Promise<string | undefined> => {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const wanted = await bytesWanted(dir, artifacts);
  const free = await freeBytes(dir);
  return wanted === 0 || wanted + RESERVE_BYTES <= free ? undefined : `${wanted} bytes are needed and ${free} are free`;
};

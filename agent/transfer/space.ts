/** Whether an update fits on the disk, before any of it is fetched (faults 18, 19). */
import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Artifact } from '#shared/manifest.ts';
import { type FreeBytes, freeOn, noRoomFor, placedBytes } from '../disk/room.ts';

/** What is still to be written: downloads, and trees as they are unpacked; a single file is linked into its slot. */
const bytesWanted = async (dir: string, artifacts: readonly Artifact[]): Promise<number> => {
  let wanted = 0;
  for (const artifact of artifacts) {
    const { sha256, bytes, install } = artifact;
    for (const name of [sha256, `${sha256}.part`])
      wanted -= Math.min(bytes, (await stat(join(dir, name)).catch(() => undefined))?.size ?? 0);
    wanted += bytes + (install.kind === 'tree' ? placedBytes(artifact) : 0);
  }
  return Math.max(0, wanted);
};

/** `dir`: where downloads are; made if it is not there. Throws the system's error. */
export const lacksRoom = async (
  dir: string,
  artifacts: readonly Artifact[],
  freeBytes: FreeBytes = freeOn,
): Promise<string | undefined> => {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  return noRoomFor(await bytesWanted(dir, artifacts), await freeBytes(dir));
};

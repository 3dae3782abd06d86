/** Room on the disk: what is free, what of it stays free, and whether something fits (faults 18, 19). */
import { statfs } from 'node:fs/promises';
import type { Artifact } from '#shared/manifest.ts';
import type { TreeSize } from '#shared/tree-map.ts';

/** Stays free for everything else on that disk: the journal, logs, the application's data. */
export const RESERVE_BYTES = 4 * 1024 * 1024;
/** What a file, folder or link takes at least, whatever is in it. */
const BLOCK_BYTES = 4096;
/**
 * While a tree is written, free space is looked up after this much. A look costs some microseconds; others may fill the
 * disk meanwhile.
 */
const LOOK_BYTES = 1024 * 1024;

/** What a tree may take on the disk at most. */
export const spaceFor = ({ bytes, entries }: TreeSize): number => bytes + entries * BLOCK_BYTES;

/** How much may still be written to the disk with this folder. Throws the system's error. */
export type FreeBytes = (dir: string) => Promise<number>;
export const freeOn: FreeBytes = async (dir) => {
  const { bavail, bsize } = await statfs(dir);
  return bavail * bsize;
};

/** Why so much does not fit, with the reserve; undefined when it does. */
export const noRoomFor = (wanted: number, free: number): string | undefined =>
  wanted === 0 || wanted + RESERVE_BYTES <= free
    ? undefined
    : `${wanted} bytes are needed and ${free} are free, of which ${RESERVE_BYTES} stay free for everything else`;

/** What a tree unpacks to, where its manifest says so. */
export const unpackedSize = ({ install }: Pick<Artifact, 'install'>): TreeSize | undefined =>
  install.kind === 'tree' ? install.unpacked : undefined;

/**
 * What an artifact of a manifest takes in a folder. Of a compressed tree whose size is not pinned only this much is
 * known.
 */
export const placedBytes = (artifact: Pick<Artifact, 'bytes' | 'install'>): number => {
  const unpacked = unpackedSize(artifact);
  return unpacked === undefined ? artifact.bytes : spaceFor(unpacked);
};

export type RoomWatch = {
  /** Before so many bytes are written. Why they do not fit; undefined when they do. */
  spend(bytes: number): Promise<string | undefined>;
  /** They have been written: from now on the file system counts them. */
  written(bytes: number): void;
};

/**
 * Watches that what is written to the disk with this folder, little by little, leaves the reserve free. One `spend` at
 * a time.
 */
export const openRoomWatch = (dir: string, freeBytes: FreeBytes = freeOn): RoomWatch => {
  let underWay = 0;
  let left = 0;
  let sinceLook = Number.POSITIVE_INFINITY;
  return {
    spend: async (bytes) => {
      if (bytes > left || sinceLook >= LOOK_BYTES) {
        const free = await freeBytes(dir);
        left = free - RESERVE_BYTES - underWay;
        sinceLook = 0;
        if (bytes > left) return `${free} bytes are free, of which ${RESERVE_BYTES} stay free for everything else`;
      }
      left -= bytes;
      sinceLook += bytes;
      underWay += bytes;
      return undefined;
    },
    written: (bytes) => {
      underWay -= bytes;
    },
  };
};

/** What one entry of a tree takes. */
export const entryBytes = (bytes: number): number => spaceFor({ bytes, entries: 1 });

/**
 * Room that is kept for the journal: a file that is given up when the disk is full, so that the agent can record what
 * it does about that, and made again when there is room. Its bytes are random, lest a file system that compresses keeps
 * none for it.
 */
import { randomBytes } from 'node:crypto';
import { open, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { syncFolder } from '#shared/durable.ts';
import { freeOn, noRoomFor } from '../disk/room.ts';

/** A journal of one record, its temporary beside it, and the other small files of a deployment's end. */
export const JOURNAL_RESERVE_BYTES = 128 * 1024;
/** A full disk is not asked at every record whether there is room again. */
const LOOK_MS = 30_000;

export type JournalReserve = {
  /** False when there was none to give up. */
  giveUp(): Promise<boolean>;
  /** Made again where it is missing and fits. What fails is left for later. */
  renew(): Promise<void>;
};

export const openJournalReserve = (file: string): JournalReserve => {
  let lookedAt = Number.NEGATIVE_INFINITY;
  let isThere = false;

  const make = async (): Promise<void> => {
    const size = (await stat(file).catch(() => undefined))?.size ?? 0;
    isThere = size >= JOURNAL_RESERVE_BYTES;
    if (isThere || noRoomFor(JOURNAL_RESERVE_BYTES, await freeOn(dirname(file))) !== undefined) return;
    const handle = await open(file, 'w', 0o600);
    try {
      await handle.writeFile(randomBytes(JOURNAL_RESERVE_BYTES));
      await handle.datasync();
      isThere = true;
    } finally {
      await handle.close();
    }
  };

  return {
    giveUp: async () => {
      const was = await stat(file).catch(() => undefined);
      if (was === undefined) return false;
      isThere = false;
      lookedAt = performance.now();
      await rm(file, { force: true });
      // Some file systems give room back only when a removal is durable.
      await syncFolder(dirname(file)).catch(() => undefined);
      return true;
    },
    renew: async () => {
      if (isThere || performance.now() - lookedAt < LOOK_MS) return;
      lookedAt = performance.now();
      await make().catch(() => rm(file, { force: true }).catch(() => undefined));
    },
  };
};

/**
 * Makes a tree that was just written durable. One `syncfs` of its file system costs about as much as one fsync, while
 * thousands of fsyncs take most of an installation's time. Node has no `syncfs`, but coreutils' `sync -f` is that one
 * call.
 */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { endsWell } from '../process/bounded-child.ts';

/** Up to so many one by one, which does not make this device wait for what other programs have written. */
const ONE_BY_ONE_MAX = 64;
/** How many wait for their fsync at once: the file system then commits many together. */
const FLUSHES_MAX = 32;
/** A file system that is slower than this gets the fsyncs. */
const SYNC_MS_MAX = 10 * 60_000;

/**
 * When this resolves, all of `paths` below `root` (files, and folders with the names in them) are on the disk; they
 * must be of one file system. Throws the system's error. `syncCommand` is a full path, lest a stranger's `sync` come
 * first; another one is for tests.
 */
export const flushTree = async (root: string, paths: readonly string[], syncCommand = '/bin/sync'): Promise<void> => {
  if (paths.length > ONE_BY_ONE_MAX && (await syncFileSystem(root, syncCommand))) return;
  const rest = paths.values();
  const work = async (): Promise<void> => {
    for (const path of rest) await syncPath(join(root, path));
  };
  // All workers draw from the one iterator. Whatever fails, none of them is left behind when this rejects.
  const ended = await Promise.allSettled(Array.from({ length: FLUSHES_MAX }, work));
  for (const one of ended) if (one.status === 'rejected') throw one.reason;
};

/**
 * False when there is no such command here, or it failed: then nothing is known, and the fsyncs say what is wrong. A
 * `sync` that does not know `-f` either refuses it or flushes every file system, which is as good.
 */
const syncFileSystem = async (root: string, syncCommand: string): Promise<boolean> => {
  // Elsewhere `sync` only begins to write (POSIX asks for no more).
  if (process.platform !== 'linux') return false;
  return endsWell([syncCommand, '-f', root], {}, { timeoutMs: SYNC_MS_MAX });
};

const syncPath = async (path: string): Promise<void> => {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
};

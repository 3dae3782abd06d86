/**
 * Copies a folder with all that is in it, durably: contents, modes, times, links, and owners where this process may set
 * them.
 */
import { constants, type Stats } from 'node:fs';
import {
  chmod,
  copyFile,
  lchown,
  link,
  lstat,
  lutimes,
  mkdir,
  open,
  readdir,
  readlink,
  realpath,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import type { TreeSize } from '#shared/tree-map.ts';
import { errorCode } from '../process/system-error.ts';
import { flushTree } from './flush.ts';

/** What cannot be copied, in a sentence. */
export class TreeNotCopied extends Error {
  override name = 'TreeNotCopied';
  readonly code: 'NO_SPACE' | 'PRECONDITION';
  constructor(code: 'NO_SPACE' | 'PRECONDITION', message: string) {
    super(message);
    this.code = code;
  }
}

const ENTRIES_MAX = 1_000_000;
type Entry = { path: string; stats: Stats };

/** Everything below `root`, and `root` itself first; a folder comes before what is in it. */
async function* walk(root: string): AsyncGenerator<Entry> {
  yield { path: '', stats: await lstat(root) };
  const folders = [''];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    for (const name of await readdir(join(root, folder))) {
      const path = join(folder, name);
      const stats = await lstat(join(root, path));
      if (stats.isDirectory()) folders.push(path);
      // What an ended process listened on is of no use to anyone.
      if (!stats.isSocket()) yield { path, stats };
    }
  }
}

/** One counter for measuring and copying: throws as soon as it is too much. */
const openMeter = (bytesMax: number) => {
  const size: TreeSize = { bytes: 0, entries: 0 };
  return {
    size,
    add: ({ path, stats }: Entry): void => {
      size.entries += 1;
      if (stats.isFile()) size.bytes += stats.size;
      else if (!stats.isDirectory() && !stats.isSymbolicLink())
        throw new TreeNotCopied('PRECONDITION', `${path} is neither a file nor a folder nor a link`);
      if (size.bytes > bytesMax) throw new TreeNotCopied('NO_SPACE', `it has more than ${bytesMax} bytes`);
      if (size.entries > ENTRIES_MAX) throw new TreeNotCopied('NO_SPACE', `it has more than ${ENTRIES_MAX} entries`);
    },
  };
};

/** Throws `TreeNotCopied` or the system's error. */
export const measureTree = async (root: string, bytesMax: number): Promise<TreeSize> => {
  const meter = openMeter(bytesMax);
  for await (const entry of walk(root)) meter.add(entry);
  return meter.size;
};

/**
 * `to` must not exist. Where the file system can, files share their blocks until one of them is written (hard links
 * would share the writes too). When this resolves all of it is on the disk. Throws `TreeNotCopied` or the system's
 * error, and leaves what it made.
 */
export const copyTree = async (
  source: string,
  to: string,
  bytesMax: number,
  onEntry: () => void,
  signal?: AbortSignal,
): Promise<void> => {
  const from = await realpath(source);
  const meter = openMeter(bytesMax);
  /** Of files with several names: the first that was copied. */
  const copied = new Map<string, string>();
  const folders: Entry[] = [];
  const written: string[] = [];
  for await (const entry of walk(from)) {
    signal?.throwIfAborted();
    meter.add(entry);
    const { path, stats } = entry;
    if (stats.isDirectory()) {
      await mkdir(join(to, path), { mode: 0o700 });
      folders.push(entry);
    } else if (stats.isSymbolicLink()) {
      await symlink(await readlink(join(from, path)), join(to, path));
      await keepFacts(join(to, path), stats);
    } else await copyOne(from, to, entry, copied);
    if (!stats.isSymbolicLink()) written.push(path);
    onEntry();
  }
  // The innermost first: making an entry changes its folder's times.
  for (const { path, stats } of folders.reverse()) await keepFacts(join(to, path), stats);
  await flushTree(to, written);
};

const copyOne = async (
  from: string,
  to: string,
  { path, stats }: Entry,
  copied: Map<string, string>,
): Promise<void> => {
  const inode = `${stats.dev}:${stats.ino}`;
  const first = stats.nlink > 1 ? copied.get(inode) : undefined;
  if (first !== undefined) return link(join(to, first), join(to, path));
  await copyVery(join(from, path), stats, join(to, path));
  await keepFacts(join(to, path), stats);
  if (stats.nlink > 1) copied.set(inode, path);
};

/**
 * The very file that was met, whatever has its name by now: a process of the application's that runs on could put a
 * link there, to what this process may read and the application may not.
 */
const copyVery = async (source: string, met: Stats, copy: string): Promise<void> => {
  const handle = await open(source, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(
    (error: unknown) => {
      throw errorCode(error) === 'ELOOP' ? new TreeNotCopied('PRECONDITION', CHANGED) : error;
    },
  );
  try {
    const { dev, ino } = await handle.stat();
    const here = `/proc/self/fd/${handle.fd}`;
    // Undefined where there is no /proc. A folder above it may have been replaced, too.
    const path = await readlink(here).catch(() => undefined);
    if (dev !== met.dev || ino !== met.ino || (path !== undefined && path !== source))
      throw new TreeNotCopied('PRECONDITION', CHANGED);
    await copyFile(path === undefined ? source : here, copy, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
  } finally {
    await handle.close();
  }
};
const CHANGED = 'it changes while it is copied: a process of the application still runs';

const keepFacts = async (file: string, stats: Stats): Promise<void> => {
  if (process.getuid?.() === 0) await lchown(file, stats.uid, stats.gid);
  // After the owner: changing that clears some bits of the mode.
  if (!stats.isSymbolicLink()) await chmod(file, stats.mode & 0o7777);
  await lutimes(file, stats.atimeMs / 1000, stats.mtimeMs / 1000);
};

/** Whether files in this folder can share their blocks: then a copy takes no space worth counting. */
export const canShareBlocks = async (dir: string): Promise<boolean> => {
  const [one, two] = [join(dir, 'share-1.tmp'), join(dir, 'share-2.tmp')];
  try {
    await writeFile(one, Buffer.alloc(4096));
    await copyFile(one, two, constants.COPYFILE_FICLONE_FORCE);
    return true;
  } catch {
    return false;
  } finally {
    for (const file of [one, two]) await rm(file, { force: true });
  }
};

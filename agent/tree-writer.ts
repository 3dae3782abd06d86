/** Fills one empty folder, never outside of it, flushing every file and folder, and says of each what it wrote. */
import { createHash } from 'node:crypto';
import { type FileHandle, link, mkdir, open, stat, symlink } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { z } from 'zod';
import type { DeviceErrorCode } from '#shared/deployment.ts';
import { writeHashed } from './hashed-write.ts';
import { errorCode } from './system-error.ts';

export const TreeEntry = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('file'),
    path: z.string(),
    bytes: z.number().int(),
    executable: z.boolean(),
    sha256: z.string(),
  }),
  z.object({ kind: z.literal('folder'), path: z.string() }),
  z.object({ kind: z.literal('link'), path: z.string(), to: z.string() }),
]);
export type TreeEntry = z.infer<typeof TreeEntry>;

export type TreeLimits = { entriesMax: number; bytesMax: number };

/** Content that will not be written, whatever the disk is like. */
export class TreeRefused extends Error {
  readonly code: DeviceErrorCode;
  constructor(code: DeviceErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

/** Every method throws `TreeRefused`, or the system's error. Paths are relative, as `checkPath` returns them. */
export type TreeWriter = {
  folder(path: string): Promise<void>;
  file(path: string, options: { bytes: number; executable: boolean }, body: AsyncIterable<Uint8Array>): Promise<void>;
  /** A file that is on this file system already, whose hash is known, without copying it; false when the system can not. */
  adopt(path: string, options: { bytes: number; executable: boolean; sha256: string; file: string }): Promise<boolean>;
  link(path: string, to: string): Promise<void>;
  /** Waits until everything is on the disk. */
  finish(): Promise<void>;
  /** After a failure: waits for what is under way and closes it. */
  abandon(): Promise<void>;
};

const PATH_BYTES_MAX = 4096;
const NAME_BYTES_MAX = 255;
/** How many files wait for their fsync at once: the file system then commits many together. */
const FLUSHES_MAX = 32;

/** The path as it may be written: relative, without `.`, `..`, empty or control parts; `./` in front and `/` at the end are dropped. '' is the root. */
export const checkPath = (name: string): string => {
  const path = name.replace(/^(\.\/)+/, '').replace(/\/+$/, '');
  if (path === '' || path === '.') return '';
  const wrong =
    Buffer.byteLength(path) > PATH_BYTES_MAX ||
    /[\p{Cc}\\]/u.test(path) ||
    path
      .split('/')
      .some((part) => part === '' || part === '.' || part === '..' || Buffer.byteLength(part) > NAME_BYTES_MAX);
  if (wrong) throw new TreeRefused('WRITE_FAILED', `the path ${JSON.stringify(path.slice(0, 200))} is not allowed`);
  return path;
};

/**
 * A symbolic link may climb first and then only descend, and not above the root. Since no folder on the way to a link is
 * itself a link, and `..` never follows a name (which could be a link elsewhere), no chain of links leaves the root.
 */
export const checkLink = (path: string, to: string): void => {
  const parts = to.split('/').filter((part) => part !== '' && part !== '.');
  const climbs = parts.findIndex((part) => part !== '..');
  const up = climbs === -1 ? parts.length : climbs;
  const depth = path.split('/').length - 1;
  const wrong = to === '' || to.startsWith('/') || /[\p{Cc}\\]/u.test(to) || Buffer.byteLength(to) > PATH_BYTES_MAX;
  if (wrong || up > depth || parts.slice(up).includes('..')) {
    throw new TreeRefused('WRITE_FAILED', `the symbolic link ${path} -> ${to.slice(0, 200)} could leave the slot`);
  }
};

/** `onEntry` hears of every file, folder and link when it is written (not yet flushed). */
export const openTreeWriter = (root: string, limits: TreeLimits, onEntry: (entry: TreeEntry) => void): TreeWriter => {
  const folders = new Set(['']);
  const flushes = new Set<Promise<void>>();
  let failure: unknown;
  let entries = 0;
  let bytes = 0;

  const flushed = (work: Promise<void>): void => {
    const flush = work
      .catch((error: unknown) => {
        failure ??= error;
      })
      .finally(() => flushes.delete(flush));
    flushes.add(flush);
  };

  const room = async (): Promise<void> => {
    while (flushes.size >= FLUSHES_MAX) await Promise.race(flushes);
    if (failure !== undefined) throw failure;
  };

  const count = (more: number, path: string): void => {
    entries += 1;
    bytes += more;
    if (entries > limits.entriesMax) throw new TreeRefused('ENDLESS_DATA', `more than ${limits.entriesMax} entries`);
    if (bytes > limits.bytesMax) {
      throw new TreeRefused('ENDLESS_DATA', `with ${path} there are more than ${limits.bytesMax} bytes`);
    }
  };

  const ensureFolder = async (path: string): Promise<void> => {
    if (folders.has(path)) return;
    const parent = posix.dirname(path);
    await ensureFolder(parent === '.' ? '' : parent);
    count(0, path);
    await once(path, mkdir(join(root, path), { mode: 0o755 }));
    folders.add(path);
    onEntry({ kind: 'folder', path });
  };
  const parentOf = (path: string): string => (path.includes('/') ? posix.dirname(path) : '');

  return {
    folder: ensureFolder,
    file: async (path, options, body) => {
      await room();
      await ensureFolder(parentOf(path));
      count(options.bytes, path);
      // Exclusive: neither an earlier entry nor a link that it planted is ever written through.
      const handle = await once(path, open(join(root, path), 'wx', 0o644));
      const hash = createHash('sha256');
      try {
        const written = await writeHashed(handle, body, hash);
        if (written !== options.bytes) throw new TreeRefused('WRITE_FAILED', `${path} is shorter than announced`);
        await handle.chmod(modeOf(options.executable));
      } catch (error) {
        await handle.close();
        throw error;
      }
      flushed(syncAndClose(handle));
      onEntry({ kind: 'file', path, ...options, sha256: hash.digest('hex') });
    },
    adopt: async (path, { file, ...options }) => {
      await room();
      await ensureFolder(parentOf(path));
      try {
        await link(file, join(root, path));
      } catch (error) {
        if (!['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP'].includes(errorCode(error))) throw error;
        return false;
      }
      const there = await stat(join(root, path));
      if (there.size !== options.bytes) throw new TreeRefused('TARGET_HASH', `${file} has not the size it had`);
      count(options.bytes, path);
      const handle = await open(join(root, path), 'r');
      await handle.chmod(modeOf(options.executable));
      flushed(syncAndClose(handle));
      onEntry({ kind: 'file', path, ...options });
      return true;
    },
    link: async (path, to) => {
      checkLink(path, to);
      await ensureFolder(parentOf(path));
      count(0, path);
      await once(path, symlink(to, join(root, path)));
      onEntry({ kind: 'link', path, to });
    },
    finish: async () => {
      await Promise.all(flushes);
      // Folders after their files: only a folder's own fsync makes the names in it durable.
      for (const folder of folders) {
        await room();
        flushed(open(join(root, folder), 'r').then(syncAndClose));
      }
      await Promise.all(flushes);
      if (failure !== undefined) throw failure;
    },
    abandon: async () => {
      await Promise.all(flushes);
    },
  };
};

const modeOf = (executable: boolean): number => (executable ? 0o755 : 0o644);

const syncAndClose = async (handle: FileHandle): Promise<void> => {
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
};

/** The slot began empty, so whatever is there already came from this same content. */
const once = async <T>(path: string, making: Promise<T>): Promise<T> => {
  try {
    return await making;
  } catch (error) {
    const code = errorCode(error);
    if (code === 'EEXIST') throw new TreeRefused('WRITE_FAILED', `${path} comes twice`);
    if (code === 'ENOTDIR' || code === 'ELOOP') throw new TreeRefused('WRITE_FAILED', `${path} lies under a file`);
    throw error;
  }
};

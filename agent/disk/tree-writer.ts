/** Fills one empty folder, never outside of it, and says of every file, folder and link what it wrote. */
import { createHash } from 'node:crypto';
import { chmod, chown, type FileHandle, link, mkdir, open, stat, symlink } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { z } from 'zod';
import type { DeviceErrorCode } from '#shared/deployment.ts';
import { entryPath } from '#shared/tree-map.ts';
import { usualMode } from '#shared/tree-mode.ts';
import { linkFault, pathFault } from '#shared/tree-path.ts';
import { errorCode } from '../process/system-error.ts';
import { flushTree } from './flush.ts';
import { writeHashed } from './hashed-write.ts';
import { entryBytes, openRoomWatch, type RoomWatch } from './room.ts';

export const TreeEntry = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('file'),
    path: z.string(),
    bytes: z.number().int(),
    executable: z.boolean(),
    sha256: z.string(),
    /** Where it is not the usual one. Agents of earlier builds look at `executable` alone. */
    mode: z.number().int().optional(),
  }),
  /** Told again when it turns out to have another mode than a folder that only a path below it named. */
  z.object({ kind: z.literal('folder'), path: z.string(), mode: z.number().int().optional() }),
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
  folder(path: string, mode?: number): Promise<void>;
  file(path: string, options: { bytes: number; mode: number }, body: AsyncIterable<Uint8Array>): Promise<void>;
  /** A file that is on this file system already, whose hash is known, without copying it; false when that cannot be. */
  adopt(path: string, options: { bytes: number; mode: number; sha256: string; file: string }): Promise<boolean>;
  link(path: string, to: string): Promise<void>;
  /** Waits until everything is on the disk; only then is anything of it certain. */
  finish(): Promise<void>;
  /** After a failure: waits for what is under way. */
  abandon(): Promise<void>;
};

/**
 * Files up to this size are written beside each other, so that their latencies overlap; with the next constant 4 MiB of
 * memory.
 */
const SMALL_BYTES_MAX = 256 * 1024;
const SMALL_AT_ONCE_MAX = 16;

/**
 * The path as it may be written; `./` in front and `/` at the end are dropped. '' is the root. Throws `TreeRefused`.
 */
export const checkPath = (name: string): string => {
  const path = entryPath(name);
  if (path === '') return '';
  const fault = pathFault(path);
  if (fault !== undefined) throw new TreeRefused('WRITE_FAILED', `the path ${quoted(path)} ${fault}`);
  return path;
};

/** Throws `TreeRefused` for a symbolic link that could lead out of the slot. */
export const checkLink = (path: string, to: string): void => {
  const fault = linkFault(path, to);
  if (fault !== undefined) throw new TreeRefused('WRITE_FAILED', `the symbolic link ${path} -> ${quoted(to)} ${fault}`);
};

/** From outside, so it must not be long, nor act on a terminal. */
const quoted = (text: string): string => JSON.stringify(text.slice(0, 200));

/**
 * `onEntry` hears of every file, folder and link in the order in which they come; a small file may not be written yet.
 * Nothing is written that would leave less free on the disk than its reserve: others would have nothing left to write
 * to. Once `signal` is aborted every method throws its reason, before it writes anything more.
 */
export const openTreeWriter = (
  root: string,
  limits: TreeLimits,
  onEntry: (entry: TreeEntry) => void,
  {
    room = openRoomWatch(root),
    owner = null,
    signal,
  }: { room?: RoomWatch; owner?: FileOwner | null; signal?: AbortSignal | undefined } = {},
): TreeWriter => {
  const folders = new Set(['']);
  const files: string[] = [];
  const underWay = new Set<Promise<void>>();
  let failure: unknown;
  let entries = 0;
  let bytes = 0;

  /** What fails meanwhile is thrown by the next file, or by `finish`. */
  const inBackground = async (work: () => Promise<void>): Promise<void> => {
    while (underWay.size >= SMALL_AT_ONCE_MAX) await Promise.race(underWay);
    if (failure !== undefined) throw failure;
    const done = work()
      .catch((error: unknown) => {
        failure ??= error;
      })
      .finally(() => underWay.delete(done));
    underWay.add(done);
  };

  const spend = async (more: number, path: string): Promise<void> => {
    signal?.throwIfAborted();
    const why = await room.spend(more);
    if (why !== undefined) throw new TreeRefused('NO_SPACE', `there is no room for ${path}: ${why}`);
  };
  /** The bytes of a file, each counted before it is written. */
  async function* spending(body: AsyncIterable<Uint8Array>, path: string): AsyncGenerator<Uint8Array> {
    for await (const piece of body) {
      await spend(piece.length, path);
      yield piece;
    }
  }
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
    await spend(entryBytes(0), path);
    await once(path, mkdir(join(root, path)));
    room.written(entryBytes(0));
    await setMode(path, FOLDER_MODE);
    folders.add(path);
    onEntry({ kind: 'folder', path });
  };
  /** As with files: not by making it so, since the process's umask would take bits away. */
  const setMode = async (path: string, mode: number): Promise<void> => {
    await chmod(join(root, path), mode);
    if (owner !== null && isPrivate(mode)) await chown(join(root, path), owner.uid, owner.gid);
  };
  /** Exclusive: neither an earlier entry nor a link that it planted is ever written through. */
  const fill = async <T>(path: string, mode: number, write: (handle: FileHandle) => Promise<T>): Promise<T> => {
    const handle = await once(path, open(join(root, path), 'wx', 0o600));
    try {
      const written = await write(handle);
      await handle.chmod(mode);
      if (owner !== null && isPrivate(mode)) await handle.chown(owner.uid, owner.gid);
      return written;
    } finally {
      await handle.close();
    }
  };
  const parentOf = (path: string): string => (path.includes('/') ? posix.dirname(path) : '');

  return {
    folder: async (path, mode = FOLDER_MODE) => {
      await ensureFolder(path);
      // The agent has to get in, also where it is not root.
      const wanted = mode | 0o700;
      if (path === '' || wanted === FOLDER_MODE) return;
      await setMode(path, wanted);
      onEntry({ kind: 'folder', path, mode: wanted });
    },
    file: async (path, options, body) => {
      await ensureFolder(parentOf(path));
      count(options.bytes, path);
      const hash = createHash('sha256');
      const short = (): TreeRefused => new TreeRefused('WRITE_FAILED', `${path} has not the announced length`);
      if (options.bytes <= SMALL_BYTES_MAX) {
        const content = await takeSmall(body, options.bytes);
        if (content === undefined) throw short();
        hash.update(content);
        await spend(entryBytes(content.length), path);
        await inBackground(async () => {
          await fill(path, options.mode, (handle) => handle.writeFile(content));
          room.written(entryBytes(content.length));
        });
      } else {
        const pieces = spending(body, path);
        let written = 0;
        const onWritten = (bytes: number): void => {
          room.written(bytes - written);
          written = bytes;
        };
        await fill(path, options.mode, (handle) => writeHashed(handle, pieces, hash, onWritten));
        if (written !== options.bytes) throw short();
      }
      files.push(path);
      onEntry(fileEntry(path, { ...options, sha256: hash.digest('hex') }));
    },
    adopt: async (path, { file, ...options }) => {
      // All names of a file have one mode: another artifact of the same content may have been given its own.
      const { nlink, mode } = await stat(file);
      if (nlink > 1 && (mode & 0o7777) !== options.mode) return false;
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
      await setMode(path, options.mode);
      files.push(path);
      onEntry(fileEntry(path, options));
      return true;
    },
    link: async (path, to) => {
      checkLink(path, to);
      await ensureFolder(parentOf(path));
      count(0, path);
      await spend(entryBytes(0), path);
      await once(path, symlink(to, join(root, path)));
      room.written(entryBytes(0));
      onEntry({ kind: 'link', path, to });
    },
    finish: async () => {
      await Promise.all(underWay);
      if (failure !== undefined) throw failure;
      signal?.throwIfAborted();
      await flushTree(root, [...files, ...folders]);
    },
    abandon: async () => {
      await Promise.all(underWay);
    },
  };
};

const FOLDER_MODE = 0o755;
/** Who reads what not everyone may read: the application's user, where that is another than the agent. */
export type FileOwner = { uid: number; gid: number };
const isPrivate = (mode: number): boolean => (mode & 0o004) === 0;

const fileEntry = (
  path: string,
  { mode, ...rest }: { mode: number; bytes: number; sha256: string },
): Extract<TreeEntry, { kind: 'file' }> => {
  const executable = (mode & 0o100) !== 0;
  return { kind: 'file', path, ...rest, executable, ...(mode === usualMode(executable) ? {} : { mode }) };
};

/** All of the body; undefined when it is not as long as announced. */
const takeSmall = async (body: AsyncIterable<Uint8Array>, bytes: number): Promise<Buffer | undefined> => {
  const content = Buffer.allocUnsafe(bytes);
  let taken = 0;
  for await (const piece of body) {
    if (taken + piece.length > bytes) return undefined;
    content.set(piece, taken);
    taken += piece.length;
  }
  return taken === bytes ? content : undefined;
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

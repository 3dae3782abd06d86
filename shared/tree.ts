/** A folder as a deterministic tar: the same files give the same bytes, on any machine and at any time. */
import { createReadStream, createWriteStream } from 'node:fs';
import { lstat, readdir, readlink } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { Transform } from 'node:stream';
import { createGzip, createZstdCompress } from 'node:zlib';
import { accept, type Result, refuse } from './problems.ts';
import { type AddTarEntry, packTar, type TarEntry } from './tar.ts';
import { keptMode } from './tree-mode.ts';
import { linkFault, pathFault } from './tree-path.ts';

export type TreeCompression = 'none' | 'gzip' | 'zstd';
export const TREE_ENTRIES_MAX = 200_000;
/** Below this no one makes holes on purpose. */
const SPARSE_BYTES_MIN = 1024 * 1024;

/** What a device does not get of a file that it does get. */
export type Lost = { path: string; what: string };

/**
 * Writes `folder` as a tar to `out`: entries sorted by name, times 0, owner 0, modes as tree-mode.ts says, symbolic
 * links kept. Refusal: `bundle-invalid` for what no device would unpack: a device, socket or pipe, a name or link that
 * is not allowed (tree-path.ts), too many entries, or nothing inside.
 */
export const writeTree = async (
  folder: string,
  compression: TreeCompression,
  out: string,
  onLost: (lost: Lost) => void = () => undefined,
): Promise<Result<void>> => {
  const listed = await listTree(folder, onLost);
  if (!listed.ok) return listed;
  const fill = async (add: AddTarEntry): Promise<void> => {
    for (const entry of listed.value) {
      await add(entry, entry.kind === 'file' ? createReadStream(join(folder, entry.name)) : undefined);
    }
  };
  await packTar(fill, compressor(compression), createWriteStream(out));
  return accept(undefined);
};

const compressor = (compression: TreeCompression): Transform[] => {
  if (compression === 'none') return [];
  if (compression === 'zstd') return [createZstdCompress()];
  return [createGzip({ level: 9 }), withoutGzipOrigin()];
};

/**
 * Byte 9 of a gzip header names the operating system that made it (RFC 1952, 2.3.1): 255, unknown, is the same
 * everywhere.
 */
const withoutGzipOrigin = (): Transform => {
  let at = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      if (at <= 9 && at + chunk.length > 9) chunk[9 - at] = 255;
      at += chunk.length;
      done(null, chunk);
    },
  });
};

const listTree = async (root: string, onLost: (lost: Lost) => void): Promise<Result<TarEntry[]>> => {
  const entries: TarEntry[] = [];
  const folders = [''];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    const names = await readdir(join(root, folder)).catch(() => undefined);
    if (names === undefined) return refuse('bundle-invalid', `${join(root, folder)} cannot be read as a folder`);
    for (const part of names) {
      const name = posix.join(folder, part);
      const entry = await describeEntry(join(root, name), name, onLost);
      if (!entry.ok) return entry;
      entries.push(entry.value);
      if (entry.value.kind === 'folder') folders.push(name);
      if (entries.length > TREE_ENTRIES_MAX)
        return refuse('bundle-invalid', `${root} has over ${TREE_ENTRIES_MAX} entries`);
    }
  }
  if (entries.length === 0) return refuse('bundle-invalid', `${root} is empty`);
  // By bytes, not by locale. A folder sorts before what is in it, because its name is a prefix.
  return accept(entries.sort((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name))));
};

const describeEntry = async (path: string, name: string, onLost: (lost: Lost) => void): Promise<Result<TarEntry>> => {
  const unnamable = pathFault(name);
  if (unnamable !== undefined)
    return refuse('bundle-invalid', `devices refuse the path ${JSON.stringify(path)}: it ${unnamable}`);
  const there = await lstat(path);
  const { mode, lost } = keptMode(there.mode & 0o7777);
  if (there.isDirectory() || there.isFile()) for (const what of lost) onLost({ path: name, what });
  if (there.isDirectory()) return accept({ kind: 'folder', name, mode });
  if (there.isFile()) {
    if (there.nlink > 1) onLost({ path: name, what: 'that it is one file with another name (a hard link)' });
    if (there.size >= SPARSE_BYTES_MIN && there.blocks * 512 < there.size / 2)
      onLost({ path: name, what: 'its holes (a sparse file takes its whole size)' });
    return accept({ kind: 'file', name, bytes: there.size, mode });
  }
  if (!there.isSymbolicLink())
    return refuse('bundle-invalid', `${path} is neither a file, a folder nor a symbolic link`);
  const to = await readlink(path);
  const fault = linkFault(name, to);
  if (fault !== undefined) {
    return refuse('bundle-invalid', `devices refuse the symbolic link ${path} -> ${JSON.stringify(to)}: it ${fault}`);
  }
  return accept({ kind: 'link', name, to });
};

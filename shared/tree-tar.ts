/**
 * Reading a tree's tar, no matter who made it: how it is decompressed, what its entries may be, and what of them does
 * not reach a device.
 */
import { pipeline, Readable, Transform } from 'node:stream';
import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import { extract, type Header } from 'tar-stream';
import { accept, type Result, refuse } from './problems.ts';
import { type Lost, TREE_ENTRIES_MAX, type TreeCompression } from './tree.ts';
import { entryPath, type TreeMap } from './tree-map.ts';
import { keptMode } from './tree-mode.ts';

/** A streamx stream, which is not declared as iterable, but is. */
type Entry = AsyncIterable<Uint8Array> & { header: Header; resume(): unknown };

/** What a tree may unpack to, whatever a device's slot takes. */
const TREE_BYTES_MAX = 16 * 1024 ** 3;

export const treeDecompressor = (compression: TreeCompression): NodeJS.ReadWriteStream[] => {
  if (compression === 'none') return [];
  if (compression === 'gzip') return [createGunzip({ chunkSize: 256 * 1024 })];
  // 8 MiB, which RFC 8878 (3.1.1.1.2) asks every decoder to support, is also the most that a device should give.
  return [createZstdDecompress({ chunkSize: 256 * 1024, params: { [constants.ZSTD_d_windowLogMax]: 23 } })];
};

/** Why an entry is of no kind that a tree may hold; undefined for files, folders and symbolic links. */
export const entryFault = ({ type, pax }: Header): string | undefined => {
  // PAX sparse files (GNU tar 1.0) look like files whose content is a map and the pieces.
  if (Object.keys(pax ?? {}).some((name) => name.startsWith('GNU.sparse.')))
    return 'is stored as a sparse file: make the tar without --sparse';
  if (type === 'file' || type === 'directory' || type === 'symlink') return undefined;
  if (type === 'link') return 'is a hard link: make the tar with --hard-dereference';
  return `is a ${type ?? 'thing of unknown type'}, which no device gets`;
};

class Fault extends Error {}

/**
 * Reads all of a tree's tar into `map`, as a device would. Memory grows with the number of entries only. Refusal:
 * `bundle-invalid`, with the entry and what is wrong with it, or what is wrong with the tar. `lost`: what devices do
 * not get of an entry that they do get.
 */
export const scanTree = async (
  source: AsyncIterable<Uint8Array>,
  compression: TreeCompression,
  map: TreeMap,
  onLost: (lost: Lost) => void = () => undefined,
): Promise<Result<void>> => {
  const tar = extract();
  let broken: unknown;
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a streamx stream: not node's class, but the same behaviour
  const sink = tar as unknown as NodeJS.WritableStream;
  const ended = new Promise<void>((resolve) => {
    pipeline([Readable.from(source), ...treeDecompressor(compression), limitBytes(), sink], (error) => {
      broken ??= error ?? undefined;
      resolve();
    });
  });
  try {
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- as above: it is iterable, though not declared so
    for await (const entry of tar as unknown as AsyncIterable<Entry>) {
      const fault = takeIn(entry.header, map);
      if (fault !== undefined) throw new Fault(fault);
      for (const what of lostOf(entry.header)) onLost({ path: entryPath(entry.header.name), what });
      entry.resume();
    }
    await ended;
    if (broken !== undefined) throw broken;
    return accept(undefined);
  } catch (error) {
    tar.destroy();
    await ended;
    const cause = error instanceof Fault ? error : (broken ?? error);
    if (cause instanceof Fault) return refuse('bundle-invalid', `no device would unpack the tree: ${cause.message}`);
    const why = cause instanceof Error ? cause.message : String(cause);
    return refuse('bundle-invalid', `the tree cannot be read as a tar (compression: ${compression}): ${why}`);
  }
};

const takeIn = (header: Header, map: TreeMap): string | undefined => {
  const path = entryPath(header.name);
  const unfit = entryFault(header);
  if (unfit !== undefined) return `${JSON.stringify(path.slice(0, 200))} ${unfit}`;
  const fault =
    header.type === 'directory'
      ? map.folder(path)
      : header.type === 'symlink'
        ? map.link(path, header.linkname ?? '')
        : map.file(path, header.size ?? 0);
  if (fault !== undefined) return fault;
  return map.size().entries > TREE_ENTRIES_MAX ? `more than ${TREE_ENTRIES_MAX} entries` : undefined;
};

const lostOf = ({ mode, pax, type }: Header): string[] => {
  const lost: string[] = [];
  if (type !== 'symlink' && mode !== undefined) lost.push(...keptMode(mode).lost);
  const names = Object.keys(pax ?? {});
  if (names.some((name) => /^(SCHILY|LIBARCHIVE)\.xattr\./.test(name))) lost.push('extended attributes');
  if (names.some((name) => name.startsWith('SCHILY.acl.'))) lost.push('access control lists');
  return lost;
};

const limitBytes = (): Transform => {
  let bytes = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      if (bytes <= TREE_BYTES_MAX) done(null, chunk);
      else done(new Fault(`it unpacks to more than ${TREE_BYTES_MAX} bytes`));
    },
  });
};

/**
 * Writing tars with the one header form that everything of ours uses: no owner, no time, so that the same contents give
 * the same bytes.
 */
import { Readable, type Transform, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type Header, pack } from 'tar-stream';

export const TAR_BLOCK = 512;

export type TarEntry =
  | { kind: 'file'; name: string; bytes: number; mode: number }
  | { kind: 'folder'; name: string; mode: number }
  | { kind: 'link'; name: string; to: string };

const headerOf = (entry: TarEntry): Partial<Header> & Pick<Header, 'name'> => {
  const anonymous = { name: entry.name, uid: 0, gid: 0, mtime: new Date(0) };
  if (entry.kind === 'folder') return { ...anonymous, mode: entry.mode, type: 'directory' };
  if (entry.kind === 'link') return { ...anonymous, mode: 0o755, type: 'symlink', linkname: entry.to };
  return { ...anonymous, type: 'file', size: entry.bytes, mode: entry.mode };
};

/** Adds one entry; the body of a file must have exactly the announced size. */
export type AddTarEntry = (entry: TarEntry, body?: AsyncIterable<Uint8Array>) => Promise<void>;

/**
 * Streams what `fill` adds through the transforms into the last stream. Rejects with the first error of either side.
 */
export const packTar = async (
  fill: (add: AddTarEntry) => Promise<void>,
  transforms: Transform[],
  into: Writable,
): Promise<void> => {
  const tar = pack();
  const add: AddTarEntry = async (entry, body) => {
    const sink = tar.entry(headerOf(entry));
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a streamx stream: not node's class, but the same behaviour
    if (body !== undefined) await pipeline(Readable.from(body), sink as unknown as Writable);
  };
  const filling = fill(add).then(
    () => tar.finalize(),
    (error: unknown) =>
      tar.destroy(error instanceof Error ? error : new Error('the tar could not be filled', { cause: error })),
  );
  await Promise.all([filling, pipeline([Readable.from(tar), ...transforms, into])]);
};

/** The header blocks of a file entry, as the tar library writes them (names over 100 characters take a PAX header). */
export const tarHead = async (name: string, bytes: number): Promise<Buffer> => {
  const tar = pack();
  const entry = tar.entry(headerOf({ kind: 'file', name, bytes, mode: 0o644 }));
  entry.on('error', () => {}); // Never filled: destroyed as soon as the header is there.
  const blocks: Buffer[] = [];
  for await (const block of tar) {
    if (!Buffer.isBuffer(block)) continue;
    blocks.push(block);
    // The PAX header of a long name has the type "x"; the file's own, "0", is the last.
    if (block.length === TAR_BLOCK && block[156] === 0x30) break;
  }
  return Buffer.concat(blocks);
};

/** Bytes for the tests of transfer: the same for the same seed, everywhere and forever. */
import { createHash } from 'node:crypto';
import { type ChunkRecord, openIndexer } from '#shared/transfer/chunk-index.ts';
import { type ArtifactReader, makePack } from '#shared/transfer/make-pack.ts';

/** Nothing in it compresses: SHA-256 of the seed and a counter, in a row. */
export const noise = (seed: string, bytes: number): Buffer => {
  const blocks: Buffer[] = [];
  for (let count = 0; count * 32 < bytes; count += 1) {
    blocks.push(createHash('sha256').update(`${seed}/${count}`).digest());
  }
  return Buffer.concat(blocks).subarray(0, bytes);
};

export const recordsOf = (bytes: Uint8Array): ChunkRecord[] => {
  const indexer = openIndexer();
  indexer.push(bytes);
  return indexer.end();
};

export const readerOf = (bytes: Buffer): ArtifactReader => ({
  bytes: bytes.length,
  read: (offset, length) => {
    if (offset < 0 || offset + length > bytes.length) throw new RangeError('beyond the artifact');
    return bytes.subarray(offset, offset + length);
  },
});

/** `old` null: from nothing. */
export const packOf = (old: Buffer | null, fresh: Buffer, level: number): Buffer => {
  const bytesOf = (bytes: Buffer) => ({ reader: readerOf(bytes), records: recordsOf(bytes) });
  const frames: Buffer[] = [];
  let head: Buffer = Buffer.alloc(0);
  makePack({ old: old === null ? null : bytesOf(old), new: bytesOf(fresh), level }, (bytes, at) => {
    if (at === 0) head = bytes;
    else frames.push(bytes);
  });
  return Buffer.concat([head, ...frames]);
};

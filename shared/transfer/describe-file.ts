/** Everything that a manifest says of a file's bytes, in one reading. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { Sha256 } from '../ids.ts';
import type { Artifact } from '../manifest.ts';
import { accept, type Result, refuse } from '../problems.ts';
import { encodeIndex, INDEXED_BYTES_MIN, openIndexer } from './chunk-index.ts';
import { CHUNKING_FORMAT } from './chunker.ts';
import { compressedInside } from './compressed-inside.ts';

export type DescribedFile = {
  bytes: number;
  sha256: Sha256;
  /** Absent below `INDEXED_BYTES_MIN`. */
  chunks?: NonNullable<Artifact['chunks']>;
  /** How it is compressed inside, if it is. */
  compressed: string | undefined;
};

const HEAD_BYTES = 64;

/** Refusal: `bundle-invalid`, when it is not there or no file. */
export const describeFile = async (file: string): Promise<Result<DescribedFile>> => {
  const there = await stat(file).catch(() => undefined);
  if (there === undefined) return refuse('bundle-invalid', `${file} cannot be read`);
  if (!there.isFile()) return refuse('bundle-invalid', `${file} is not a file`);
  const whole = createHash('sha256');
  const indexer = openIndexer();
  let head = Buffer.alloc(0);
  let bytes = 0;
  for await (const piece of createReadStream(file, { highWaterMark: 256 * 1024 }) as AsyncIterable<Buffer>) {
    if (head.length < HEAD_BYTES) head = Buffer.concat([head, piece.subarray(0, HEAD_BYTES)]);
    whole.update(piece);
    indexer.push(piece);
    bytes += piece.length;
  }
  const described = { bytes, sha256: Sha256.parse(whole.digest('hex')), compressed: compressedInside(head) };
  if (bytes < INDEXED_BYTES_MIN) return accept(described);
  return accept({ ...described, chunks: describeIndex(encodeIndex(indexer.end())) });
};

/** What a manifest says of an index. */
export const describeIndex = (index: Buffer): NonNullable<Artifact['chunks']> => ({
  format: CHUNKING_FORMAT,
  index: Sha256.parse(createHash('sha256').update(index).digest('hex')),
  bytes: index.length,
});

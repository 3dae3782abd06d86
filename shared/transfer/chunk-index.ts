/**
 * The index of an artifact: which chunks it consists of, in order. The signed manifest pins its digest and length, so a
 * device that has the right bytes of it knows the digest of every chunk before it is fetched. docs/transfer.md
 * specifies it.
 *
 * Header, 16 bytes: `SLUICEIX`, the chunking format (1 byte), three zeros, the number of records (32 bits,
 * little-endian). Record, 35 bytes: SHA-256 of the chunk's bytes, their number (24 bits, little-endian).
 */
import { hash } from 'node:crypto';
import { CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNKING_FORMAT, openCutter } from './chunker.ts';

/** `sha256`: 64 hexadecimal digits. */
export type ChunkRecord = { sha256: string; bytes: number };

const MAGIC = Buffer.from('SLUICEIX', 'latin1');
const HEADER_BYTES = 16;
const RECORD_BYTES = 35;
const DIGEST_BYTES = 32;

/** How many records an artifact of so many bytes has at most: all chunks but the last have the least size or more. */
const recordsMax = (artifactBytes: number): number => Math.floor(artifactBytes / CHUNK_BYTES_MIN) + 1;
const indexBytes = (records: number): number => HEADER_BYTES + records * RECORD_BYTES;

/** Below it an artifact gets no index: one request fetches it whole. */
export const INDEXED_BYTES_MIN = 64 * 1024;

export const recordOf = (chunk: Uint8Array): ChunkRecord => ({ sha256: hash('sha256', chunk), bytes: chunk.length });

/** The records of whatever is pushed. */
export const openIndexer = (): { push(bytes: Uint8Array): void; end(): ChunkRecord[] } => {
  const records: ChunkRecord[] = [];
  const cutter = openCutter((chunk) => void records.push(recordOf(chunk)));
  return {
    push: (bytes) => cutter.push(bytes),
    end: () => {
      cutter.end();
      return records;
    },
  };
};

/** The chunks that a reader of `old` lacks, in order, each once: their numbers and offsets. */
export const chunksLacking = (
  records: readonly ChunkRecord[],
  old: readonly ChunkRecord[],
): { chunk: number; offset: number; record: ChunkRecord }[] => {
  const known = new Set(old.map(({ sha256 }) => sha256));
  const lacking = [];
  let offset = 0;
  for (const [chunk, record] of records.entries()) {
    if (!known.has(record.sha256)) lacking.push({ chunk, offset, record });
    known.add(record.sha256);
    offset += record.bytes;
  }
  return lacking;
};

export const encodeIndex = (records: readonly ChunkRecord[]): Buffer => {
  const bytes = Buffer.alloc(indexBytes(records.length));
  MAGIC.copy(bytes);
  bytes.writeUInt8(CHUNKING_FORMAT, MAGIC.length);
  bytes.writeUInt32LE(records.length, 12);
  let at = HEADER_BYTES;
  for (const record of records) {
    bytes.write(record.sha256, at, 'hex');
    bytes.writeUIntLE(record.bytes, at + DIGEST_BYTES, 3);
    at += RECORD_BYTES;
  }
  return bytes;
};

export type ParsedIndex = { ok: true; records: ChunkRecord[] } | { ok: false; why: string };
const bad = (why: string): ParsedIndex => ({ ok: false, why });

/**
 * Only what `encodeIndex` makes for an artifact of exactly so many bytes. Whether the digest is that which a manifest
 * pins must have been checked before: what is refused here was signed wrong, or never checked.
 */
export const parseIndex = (bytes: Buffer, expected: { artifactBytes: number }): ParsedIndex => {
  if (bytes.length < HEADER_BYTES) return bad('shorter than its header');
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) return bad('not a chunk index');
  if (bytes.readUInt32LE(8) !== CHUNKING_FORMAT) return bad('of another chunking format');
  const count = bytes.readUInt32LE(12);
  if (count > recordsMax(expected.artifactBytes)) return bad('more records than such an artifact has');
  if (bytes.length !== indexBytes(count)) return bad('its length is not that of its records');
  const records: ChunkRecord[] = [];
  let sum = 0;
  for (let at = HEADER_BYTES; at < bytes.length; at += RECORD_BYTES) {
    const length = bytes.readUIntLE(at + DIGEST_BYTES, 3);
    const least = at + RECORD_BYTES === bytes.length ? 1 : CHUNK_BYTES_MIN;
    if (length < least || length > CHUNK_BYTES_MAX) return bad('a chunk of a length that no chunk has');
    records.push({ sha256: bytes.toString('hex', at, at + DIGEST_BYTES), bytes: length });
    sum += length;
  }
  if (sum !== expected.artifactBytes) return bad('the chunks are not as long together as the artifact');
  return { ok: true, records };
};

/**
 * A pack: what one reader needs of an artifact, in the artifact's order, as zstd frames. It is an unsigned hint: every
 * chunk out of it is hashed against the (signed) index before it is written anywhere. docs/transfer.md specifies it.
 *
 * Header, 80 bytes: `SLUICEPK`, the pack format (1 byte), three zeros, the number of records (32 bits, little-endian as
 * everything here), digest of the index it leads to, digest of the index that it needs the artifact of (zeros: none).
 * Then the table: as many records of 16 bytes as said; then their frames, in the same order, without gaps. Record: kind
 * (8 bits), number of the chunk in the index (24), dictionary's offset (40) and length (24), frame's length (32).
 */
import { constants, zstdDecompressSync } from 'node:zlib';
import { CHUNK_BYTES_MAX } from './chunker.ts';

const PACK_FORMAT = 1;
const MAGIC = Buffer.from('SLUICEPK', 'latin1');
export const PACK_HEADER_BYTES = 80;
const PACK_RECORD_BYTES = 16;
/** What zstd needs to find in Node: beyond 256 KiB it takes far longer, and gains little on chunks of this size. */
export const DICTIONARY_BYTES_MAX = 256 * 1024;
/** A frame's window: dictionary and chunk fit into 2^19 bytes. */
export const WINDOW_LOG = 19;
const WINDOW_LOG_MAX = 20;
/** zstd stores what does not compress, with some bytes around it: a longer frame is no honest one. */
export const FRAME_BYTES_MAX = (bytes: number): number => bytes + Math.floor(bytes / 256) + 64;

/**
 * 0: by itself. 1: with a range of the old artifact as dictionary. 2: with a range of the new one, before the chunk.
 */
export const PACK_KINDS = { plain: 0, old: 1, new: 2 } as const;
export type PackKind = (typeof PACK_KINDS)[keyof typeof PACK_KINDS];
/** `chunk`: its number in the index. The dictionary is empty for kind 0. */
export type PackRecord = {
  kind: PackKind;
  chunk: number;
  dictionaryOffset: number;
  dictionaryBytes: number;
  frameBytes: number;
};
/** `to`, `from`: SHA-256 of the indexes; `from` is null for a pack from nothing. */
export type PackHeader = { to: string; from: string | null; records: number };

const NOTHING = '0'.repeat(64);

export const encodePackHeader = (header: PackHeader): Buffer => {
  const bytes = Buffer.alloc(PACK_HEADER_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt8(PACK_FORMAT, MAGIC.length);
  bytes.writeUInt32LE(header.records, 12);
  bytes.write(header.to, 16, 'hex');
  bytes.write(header.from ?? NOTHING, 48, 'hex');
  return bytes;
};

/** Header and table: what must be known before a frame can be found. */
export const packHeadBytes = (records: number): number => PACK_HEADER_BYTES + records * PACK_RECORD_BYTES;

/** Undefined: not the header of a pack of this format. */
export const parsePackHeader = (bytes: Buffer): PackHeader | undefined => {
  if (bytes.length !== PACK_HEADER_BYTES || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  if (bytes.readUInt32LE(8) !== PACK_FORMAT) return undefined;
  const from = bytes.toString('hex', 48, 80);
  return { to: bytes.toString('hex', 16, 48), from: from === NOTHING ? null : from, records: bytes.readUInt32LE(12) };
};

export const encodePackRecord = (record: PackRecord): Buffer => {
  const bytes = Buffer.alloc(PACK_RECORD_BYTES);
  bytes.writeUInt8(record.kind, 0);
  bytes.writeUIntLE(record.chunk, 1, 3);
  bytes.writeUIntLE(record.dictionaryOffset, 4, 5);
  bytes.writeUIntLE(record.dictionaryBytes, 9, 3);
  bytes.writeUInt32LE(record.frameBytes, 12);
  return bytes;
};

/** Undefined: no record that any pack has. Whether it fits the chunk that it names, `packRecordFits` says. */
export const parsePackRecord = (bytes: Buffer): PackRecord | undefined => {
  if (bytes.length !== PACK_RECORD_BYTES) return undefined;
  const kind = bytes.readUInt8(0);
  if (kind !== 0 && kind !== 1 && kind !== 2) return undefined;
  const record: PackRecord = {
    kind,
    chunk: bytes.readUIntLE(1, 3),
    dictionaryOffset: bytes.readUIntLE(4, 5),
    dictionaryBytes: bytes.readUIntLE(9, 3),
    frameBytes: bytes.readUInt32LE(12),
  };
  const { dictionaryOffset, dictionaryBytes, frameBytes } = record;
  const plain = dictionaryOffset === 0 && dictionaryBytes === 0;
  if (kind === PACK_KINDS.plain ? !plain : dictionaryBytes < 1 || dictionaryBytes > DICTIONARY_BYTES_MAX)
    return undefined;
  return frameBytes < 1 || frameBytes > FRAME_BYTES_MAX(CHUNK_BYTES_MAX) ? undefined : record;
};

/** A record, and where in the pack its frame begins. */
export type PackEntry = PackRecord & { offset: number };

/**
 * Header and table of a pack of `packBytes` bytes. Undefined when they are of none: the chunks' numbers grow, and the
 * frames end where the pack ends.
 */
export const parsePackHead = (
  head: Buffer,
  packBytes: number,
): { header: PackHeader; table: PackEntry[] } | undefined => {
  const header = parsePackHeader(head.subarray(0, PACK_HEADER_BYTES));
  if (header === undefined || head.length !== packHeadBytes(header.records)) return undefined;
  const table: PackEntry[] = [];
  let offset = head.length;
  for (let at = PACK_HEADER_BYTES; at < head.length; at += PACK_RECORD_BYTES) {
    const record = parsePackRecord(head.subarray(at, at + PACK_RECORD_BYTES));
    if (record === undefined || record.chunk <= (table.at(-1)?.chunk ?? -1)) return undefined;
    table.push({ ...record, offset });
    offset += record.frameBytes;
  }
  return offset === packBytes ? { header, table } : undefined;
};

/**
 * Whether a record may be used: the frame is no longer than such a chunk needs, and the dictionary lies within the old
 * artifact, or within what is written before the chunk. `oldBytes`: null where there is no old artifact.
 */
export const packRecordFits = (
  record: PackRecord,
  place: { chunkOffset: number; chunkBytes: number; oldBytes: number | null },
): boolean => {
  if (record.frameBytes > FRAME_BYTES_MAX(place.chunkBytes)) return false;
  const end = record.dictionaryOffset + record.dictionaryBytes;
  if (record.kind === PACK_KINDS.old) return place.oldBytes !== null && end <= place.oldBytes;
  return record.kind === PACK_KINDS.plain || end <= place.chunkOffset;
};

/** Bytes that zstd takes for a dictionary of its own format, instead of for content: such a range can't be used. */
const ZSTD_DICTIONARY_MAGIC = 0xec30a437;
const DICTIONARY_BYTES_MIN = 8;
export const canBeDictionary = (bytes: Buffer): boolean =>
  bytes.length >= DICTIONARY_BYTES_MIN &&
  bytes.length <= DICTIONARY_BYTES_MAX &&
  bytes.readUInt32LE(0) !== ZSTD_DICTIONARY_MAGIC;

/**
 * The chunk in a frame: exactly `bytes` bytes, or an error; no more than that is ever allocated. A wrong dictionary
 * gives wrong bytes without any error: only the chunk's digest tells, so check it before they are used.
 */
export const openFrame = (frame: Buffer, dictionary: Buffer | null, bytes: number): Buffer => {
  if (bytes < 1 || bytes > CHUNK_BYTES_MAX) throw new RangeError(`no chunk has ${bytes} bytes`);
  if (frame.length > FRAME_BYTES_MAX(bytes)) throw new RangeError('the frame is longer than its chunk can need');
  if (dictionary !== null && !canBeDictionary(dictionary)) throw new RangeError('these bytes cannot be a dictionary');
  const chunk = zstdDecompressSync(frame, {
    maxOutputLength: bytes,
    // One piece of memory for all of it; with the usual small ones a quarter of the time goes into putting them
    // together.
    chunkSize: Math.max(64, bytes + 1),
    params: { [constants.ZSTD_d_windowLogMax]: WINDOW_LOG_MAX },
    ...(dictionary === null ? {} : { dictionary }),
  });
  if (chunk.length !== bytes) throw new RangeError('the frame holds less than its chunk');
  return chunk;
};

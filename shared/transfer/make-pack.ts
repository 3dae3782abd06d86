/**
 * Makes packs. All of it is synchronous computing: on a server it belongs into a worker thread. Memory is bounded by
 * the indexes, the pack's own table and that of anchors (at most 32 MiB), not by the artifacts.
 */

import { hash } from 'node:crypto';
import { constants, zstdCompressSync } from 'node:zlib';
import { openAnchors } from './anchors.ts';
import { type ChunkRecord, chunksLacking, encodeIndex, recordOf } from './chunk-index.ts';
import {
  canBeDictionary,
  DICTIONARY_BYTES_MAX,
  encodePackHeader,
  encodePackRecord,
  PACK_KINDS,
  type PackKind,
  packHeadBytes,
  WINDOW_LOG,
} from './pack.ts';

/** An artifact's bytes; `read` returns exactly what it is asked for, or throws. */
export type ArtifactReader = { bytes: number; read(offset: number, bytes: number): Buffer };
export type ArtifactBytes = { reader: ArtifactReader; records: readonly ChunkRecord[] };

/**
 * Makes the pack that leads from `old` (null: from nothing) to `new`, and returns its length. `write` gets each byte of
 * it once, the frames in order and the head last, since only then the table is known. Throws when a chunk is not what
 * its index says: a pack of damaged bytes would be no use to anyone.
 */
export const makePack = (
  options: { old: ArtifactBytes | null; new: ArtifactBytes; level: number },
  write: (bytes: Buffer, at: number) => void,
): number => {
  const { old, level } = options;
  const target = options.new;
  const lacking = chunksLacking(target.records, old?.records ?? []);
  const digest = (records: readonly ChunkRecord[]): string => hash('sha256', encodeIndex(records));
  const from = old === null ? null : digest(old.records);
  const head = Buffer.alloc(packHeadBytes(lacking.length));
  let headAt = encodePackHeader({ to: digest(target.records), from, records: lacking.length }).copy(head);
  const similar = old === null || lacking.length === 0 ? null : findSimilar(old.reader);
  let at = head.length;
  for (const { chunk, offset, record } of lacking) {
    const bytes = target.reader.read(offset, record.bytes);
    if (recordOf(bytes).sha256 !== record.sha256) throw new Error(`chunk ${chunk} is not what its index says`);
    const { kind, frame, dictionaryOffset, dictionaryBytes } = smallest(bytes, level, [
      similar?.(bytes),
      justBefore(target.reader, offset),
    ]);
    const entry = { kind, chunk, dictionaryOffset, dictionaryBytes, frameBytes: frame.length };
    headAt += encodePackRecord(entry).copy(head, headAt);
    write(frame, at);
    at += frame.length;
  }
  write(head, 0);
  return at;
};

type Dictionary = { kind: PackKind; offset: number; bytes: Buffer };

const READ_BYTES = 1024 * 1024;
const findSimilar = (reader: ArtifactReader): ((chunk: Buffer) => Dictionary | undefined) => {
  const anchors = openAnchors(reader.bytes);
  for (let at = 0; at < reader.bytes; at += READ_BYTES) {
    anchors.push(reader.read(at, Math.min(READ_BYTES, reader.bytes - at)));
  }
  return (chunk) => {
    const range = anchors.find(chunk);
    if (range === undefined) return undefined;
    return { kind: PACK_KINDS.old, offset: range.offset, bytes: reader.read(range.offset, range.bytes) };
  };
};

/**
 * Twice as much would save 1 to 3 % of a pack from nothing, and double what unpacking text takes: a device copies all
 * of it for each chunk.
 */
const BEFORE_BYTES_MAX = DICTIONARY_BYTES_MAX / 2;

const justBefore = (reader: ArtifactReader, end: number): Dictionary | undefined => {
  const offset = Math.max(0, end - BEFORE_BYTES_MAX);
  return offset === end ? undefined : { kind: PACK_KINDS.new, offset, bytes: reader.read(offset, end - offset) };
};

const compress = (bytes: Buffer, level: number, dictionary?: Buffer): Buffer =>
  zstdCompressSync(bytes, {
    params: { [constants.ZSTD_c_compressionLevel]: level, [constants.ZSTD_c_windowLog]: WINDOW_LOG },
    ...(dictionary === undefined ? {} : { dictionary }),
  });

/** A dictionary costs a device reading it: it must save more than a twentieth. */
const WORTH = 0.95;

const smallest = (
  chunk: Buffer,
  level: number,
  dictionaries: (Dictionary | undefined)[],
): { kind: PackKind; frame: Buffer; dictionaryOffset: number; dictionaryBytes: number } => {
  const plain = compress(chunk, level);
  let best = { kind: PACK_KINDS.plain as PackKind, frame: plain, dictionaryOffset: 0, dictionaryBytes: 0 };
  for (const dictionary of dictionaries) {
    if (dictionary === undefined || !canBeDictionary(dictionary.bytes)) continue;
    const frame = compress(chunk, level, dictionary.bytes);
    if (frame.length >= Math.min(best.frame.length, plain.length * WORTH)) continue;
    const { kind, offset, bytes } = dictionary;
    best = { kind, frame, dictionaryOffset: offset, dictionaryBytes: bytes.length };
  }
  return best;
};

/**
 * Chunks out of a pack, read in order. Where its frames are is learnt while reading; that table is kept beside the download, so that
 * a download which goes on after a restart asks only for frames that it has not had. The table and the pack are hints: every chunk
 * is hashed before it leaves here.
 */
import { hash } from 'node:crypto';
import { type FileHandle, open, truncate } from 'node:fs/promises';
import { readFileIfThere } from '#shared/durable.ts';
import type { ChunkRecord } from '#shared/transfer/chunk-index.ts';
import {
  FRAME_BYTES_MAX,
  openFrame,
  PACK_HEADER_BYTES,
  PACK_KINDS,
  PACK_RECORD_BYTES,
  type PackRecord,
  packRecordFits,
  parsePackHeader,
  parsePackRecord,
} from '#shared/transfer/pack.ts';
import type { Seed } from './seeds.ts';
import type { ByteStream } from './stream.ts';

/** A gap of so many bytes is read over rather than asked around. */
const SKIP_BYTES_MAX = 256 * 1024;
/** After so many wrong frames in a row the rest is not asked for. One now and then is a damaged seed. */
const BAD_FRAMES_MAX = 8;

export type PackOptions = {
  sha256: string;
  bytes: number;
  /** Digest of the index it leads to, and what that says. */
  to: string;
  records: readonly ChunkRecord[];
  /** What it needs the bytes of; null: nothing. */
  seed: Seed | null;
  /** Where the table is kept. */
  tableFile: string;
  open(start: number): Promise<ByteStream>;
  /** Of the artifact, from before the chunk. */
  recent: (offset: number, bytes: number) => Promise<Buffer>;
};

export type PackSource = {
  /** Chunk `number`; undefined when the pack does not have it, or not right. To be asked in growing order; throws Trouble. */
  chunk(number: number, offset: number): Promise<Buffer | undefined>;
  /** Nothing more is to be had from it. */
  useless(): boolean;
  /** Keeps what was learnt about it. */
  remember(): Promise<void>;
  close(): Promise<void>;
};

type Entry = PackRecord & { offset: number };

export const openPackSource = async (options: PackOptions): Promise<PackSource> => {
  const { records, seed } = options;
  const table: Entry[] = [];
  let recordsMax = records.length;
  let headerRead = false;
  let useless = false;
  let badFrames = 0;
  let cursor = 0;
  let stream: ByteStream | undefined;
  let unsaved: Buffer[] = [];
  let tableHandle: FileHandle | undefined;

  const add = (bytes: Buffer): boolean => {
    const record = parsePackRecord(bytes);
    const target = record === undefined ? undefined : records[record.chunk];
    const after = table.at(-1)?.chunk ?? -1;
    if (record === undefined || target === undefined || record.chunk <= after) return false;
    if (record.frameBytes > FRAME_BYTES_MAX(target.bytes)) return false;
    const offset = tableEnd() + PACK_RECORD_BYTES;
    if (offset + record.frameBytes > options.bytes) return false;
    table.push({ ...record, offset });
    return true;
  };
  /** Where the next record begins. */
  const tableEnd = (): number => {
    const last = table.at(-1);
    return last === undefined ? PACK_HEADER_BYTES : last.offset + last.frameBytes;
  };
  const takeHeader = (bytes: Buffer): boolean => {
    const header = parsePackHeader(bytes);
    headerRead = header?.to === options.to && header.from === (seed?.index ?? null);
    recordsMax = Math.min(recordsMax, header?.records ?? 0);
    return headerRead;
  };
  const load = async (): Promise<void> => {
    const kept = await readFileIfThere(options.tableFile);
    if (kept === undefined || kept.length < PACK_HEADER_BYTES || !takeHeader(kept.subarray(0, PACK_HEADER_BYTES))) {
      headerRead = false;
      recordsMax = records.length;
      return;
    }
    for (let at = PACK_HEADER_BYTES; at + PACK_RECORD_BYTES <= kept.length; at += PACK_RECORD_BYTES) {
      // A torn end, or a damaged middle: from there on it is read again.
      if (!add(kept.subarray(at, at + PACK_RECORD_BYTES))) break;
    }
    await truncate(options.tableFile, PACK_HEADER_BYTES + table.length * PACK_RECORD_BYTES);
  };
  const giveUp = (): void => {
    useless = true;
    stream?.close();
    stream = undefined;
  };
  /** Throws Trouble. After one the stream is opened anew. */
  const at = async <T>(position: number, read: (stream: ByteStream) => Promise<T>): Promise<T> => {
    const gap = stream === undefined ? -1 : position - stream.position();
    if (gap < 0 || gap > SKIP_BYTES_MAX) {
      stream?.close();
      stream = undefined;
      stream = await options.open(position);
    }
    const opened = stream!;
    try {
      await opened.skip(position - opened.position());
      return await read(opened);
    } catch (error) {
      opened.close();
      stream = undefined;
      throw error;
    }
  };
  const readHeader = async (): Promise<void> => {
    const bytes = await at(0, (from) => from.take(PACK_HEADER_BYTES));
    if (takeHeader(bytes)) unsaved.push(bytes);
    else giveUp();
  };
  /** False: there is no next record. */
  const readRecord = async (): Promise<boolean> => {
    if (useless || table.length >= recordsMax) return false;
    const bytes = await at(tableEnd(), (from) => from.take(PACK_RECORD_BYTES));
    if (add(bytes)) unsaved.push(bytes);
    else giveUp();
    return !useless;
  };
  const dictionaryOf = async (entry: Entry): Promise<Buffer | null> => {
    const { kind, dictionaryOffset, dictionaryBytes } = entry;
    if (kind === PACK_KINDS.plain) return null;
    return kind === PACK_KINDS.old
      ? seed!.read(dictionaryOffset, dictionaryBytes)
      : options.recent(dictionaryOffset, dictionaryBytes);
  };

  const unpack = async (frame: Buffer, entry: Entry, chunkBytes: number): Promise<Buffer | undefined> => {
    try {
      return openFrame(frame, await dictionaryOf(entry), chunkBytes);
    } catch {
      // Not a frame, or its dictionary is not to be had.
      return undefined;
    }
  };

  await load();
  return {
    chunk: async (number, chunkOffset) => {
      if (!useless && !headerRead) await readHeader();
      while (cursor < table.length && table[cursor]!.chunk < number) cursor += 1;
      while (cursor === table.length && (await readRecord())) {
        if (table[cursor]!.chunk < number) cursor += 1;
      }
      const entry = table[cursor];
      if (useless || entry?.chunk !== number) return undefined;
      const { bytes: chunkBytes } = records[number]!;
      const place = { after: number - 1, chunkOffset, chunkBytes, oldBytes: seed?.bytes ?? null };
      if (!packRecordFits(entry, place)) return undefined;
      const frame = await at(entry.offset, (from) => from.take(entry.frameBytes));
      const bytes = await unpack(frame, entry, chunkBytes);
      badFrames = bytes !== undefined && hash('sha256', bytes) === records[number]!.sha256 ? 0 : badFrames + 1;
      if (badFrames >= BAD_FRAMES_MAX) giveUp();
      return badFrames === 0 ? bytes : undefined;
    },
    useless: () => useless,
    remember: async () => {
      if (unsaved.length === 0) return;
      const bytes = Buffer.concat(unsaved);
      unsaved = [];
      tableHandle ??= await open(options.tableFile, 'a', 0o600);
      await tableHandle.appendFile(bytes);
    },
    close: async () => {
      stream?.close();
      await tableHandle?.close();
    },
  };
};

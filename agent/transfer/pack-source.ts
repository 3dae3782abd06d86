/**
 * Chunks out of a pack, read in order: only those that lack, so that a pack from nothing serves a device too that holds
 * most of what is in it. Its table comes first, and is kept beside the download. The table and the pack are hints:
 * every chunk is hashed before it leaves here.
 */
import { hash } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { readFileIfThere } from '#shared/durable.ts';
import type { ChunkRecord } from '#shared/transfer/chunk-index.ts';
import {
  openFrame,
  PACK_KINDS,
  type PackEntry,
  packHeadBytes,
  packRecordFits,
  parsePackHead,
} from '#shared/transfer/pack.ts';
import type { ByteStream } from '../server/stream.ts';
import { TransferError } from '../server/transfer-error.ts';
import { writeHint } from './hint.ts';
import type { Seed } from './seeds.ts';

/** A gap of so many bytes is read over: to ask around it costs about as much. */
const SKIP_BYTES_MAX = 8 * 1024;
/** After so many wrong frames in a row the rest is not asked for. One now and then is a damaged seed. */
const BAD_FRAMES_MAX = 8;
/** So many chunks in a row came by themselves and not out of it. One now and then came right after an outage. */
const OUTDONE_MAX = 3;

export type PackOptions = {
  bytes: number;
  /** How many chunks it must hold: what a reader with nothing but the seed lacks. */
  holds: number;
  /** All of them lack: then it is read from end to end. */
  all: boolean;
  /** Digest of the index it leads to, and what that says. */
  to: string;
  records: readonly ChunkRecord[];
  /** What it needs the bytes of; null: nothing. */
  seed: Seed | null;
  /** Where the table is kept. */
  tableFile: string;
  /** Which chunks lack, as far as that can be known before. */
  lacks: (number: number) => boolean;
  open(start: number, end: number): Promise<ByteStream>;
  /** Of the artifact, from before the chunk. */
  recent: (offset: number, bytes: number) => Promise<Buffer>;
};

export type PackSource = {
  /**
   * Chunk `number`; undefined when the pack does not have it, or not right. To be asked in growing order; throws
   * TransferError.
   */
  chunk(number: number, offset: number): Promise<Buffer | undefined>;
  /** Nothing more is to be had from it. */
  useless(): boolean;
  /** The server does not have it any more; perhaps another one. */
  gone(): boolean;
  /** A chunk that this gave nothing but trouble for came by itself: it may be the pack that is wrong. */
  outdone(): Promise<void>;
  close(): void;
};

export const openPackSource = (options: PackOptions): PackSource => {
  const { records, seed, lacks } = options;
  const headBytes = packHeadBytes(options.holds);
  let table: readonly PackEntry[] | undefined;
  let useless = false;
  let gone = false;
  let badFrames = 0;
  let outdone = 0;
  let cursor = 0;
  let opened: { stream: ByteStream; end: number; skipMax: number } | undefined;

  const parse = (head: Buffer): readonly PackEntry[] | undefined => {
    const parsed = parsePackHead(head, options.bytes);
    if (parsed?.header.to !== options.to || parsed.header.from !== (seed?.index ?? null)) return undefined;
    // Their numbers grow.
    return (parsed.table.at(-1)?.chunk ?? 0) < records.length ? parsed.table : undefined;
  };
  const close = (): void => {
    opened?.stream.close();
    opened = undefined;
  };
  const giveUp = async (): Promise<void> => {
    useless = true;
    close();
    await rm(options.tableFile, { force: true });
  };
  /**
   * `end`: how far it is read if it has to be asked for. Throws TransferError; after one the stream is opened again.
   */
  const take = async (position: number, bytes: number, end: () => number): Promise<Buffer> => {
    const gap = opened === undefined ? -1 : position - opened.stream.position();
    if (opened === undefined || gap < 0 || gap > opened.skipMax || position + bytes > opened.end) {
      close();
      const until = end();
      const stream = await options.open(position, until);
      // Who knows no ranges sends all of it each time: so it is read on.
      const isAll = stream.position() < position;
      opened = {
        stream,
        ...(isAll ? { end: options.bytes, skipMax: options.bytes } : { end: until, skipMax: SKIP_BYTES_MAX }),
      };
    }
    const { stream } = opened;
    try {
      await stream.skip(position - stream.position());
      return await stream.take(bytes);
    } catch (error) {
      close();
      throw error;
    }
  };
  const readTable = async (): Promise<void> => {
    const kept = await readFileIfThere(options.tableFile);
    table = kept === undefined ? undefined : parse(kept);
    if (table !== undefined) return;
    const head = await take(0, headBytes, () => (options.all ? options.bytes : headBytes));
    table = parse(head);
    if (table === undefined) await giveUp();
    else await writeHint(options.tableFile, head);
  };
  /** The end of what is wanted from an entry on without a gap worth asking around. */
  const runEnd = (from: number, entries: readonly PackEntry[]): number => {
    const { offset: start, frameBytes: first } = entries[from]!;
    let end = start + first;
    for (let next = from + 1; next < entries.length; next += 1) {
      const { chunk, offset, frameBytes } = entries[next]!;
      if (offset - end > SKIP_BYTES_MAX) break;
      if (lacks(chunk)) end = offset + frameBytes;
    }
    return end;
  };
  const dictionaryOf = async (entry: PackEntry): Promise<Buffer | null> => {
    const { kind, dictionaryOffset, dictionaryBytes } = entry;
    if (kind === PACK_KINDS.plain) return null;
    return kind === PACK_KINDS.old
      ? seed!.read(dictionaryOffset, dictionaryBytes)
      : options.recent(dictionaryOffset, dictionaryBytes);
  };
  const unpack = async (frame: Buffer, entry: PackEntry, chunkBytes: number): Promise<Buffer | undefined> => {
    try {
      return openFrame(frame, await dictionaryOf(entry), chunkBytes);
    } catch {
      // Not a frame, or its dictionary is not to be had.
      return undefined;
    }
  };

  const find: PackSource['chunk'] = async (number, chunkOffset) => {
    if (!useless && table === undefined) await readTable();
    if (useless || table === undefined) return undefined;
    while (cursor < table.length && table[cursor]!.chunk < number) cursor += 1;
    const [entries, at] = [table, cursor];
    const entry = entries[at];
    const { bytes: chunkBytes, sha256 } = records[number]!;
    const place = { chunkOffset, chunkBytes, oldBytes: seed?.bytes ?? null };
    if (entry?.chunk !== number || !packRecordFits(entry, place)) return undefined;
    const frame = await take(entry.offset, entry.frameBytes, () => runEnd(at, entries));
    outdone = 0;
    const bytes = await unpack(frame, entry, chunkBytes);
    badFrames = bytes !== undefined && hash('sha256', bytes) === sha256 ? 0 : badFrames + 1;
    if (badFrames >= BAD_FRAMES_MAX) await giveUp();
    return badFrames === 0 ? bytes : undefined;
  };

  return {
    chunk: async (number, chunkOffset) => {
      try {
        return await find(number, chunkOffset);
      } catch (error) {
        // Replaced by a better one meanwhile, or evicted.
        if (!(error instanceof TransferError) || !error.missing) throw error;
        gone = true;
        await giveUp();
        return undefined;
      }
    },
    useless: () => useless,
    gone: () => gone,
    outdone: async () => {
      outdone += 1;
      if (outdone >= OUTDONE_MAX) await giveUp();
    },
    close,
  };
};

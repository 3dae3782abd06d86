/**
 * Writes an artifact into its place, chunk by chunk in order: what is there already stays, what this device holds
 * elsewhere is copied, and only the rest is fetched, from a pack or piece by piece. Every chunk has been hashed before
 * it is written, and going on after a cut is the same as beginning. There is no record of what was done but the bytes
 * themselves.
 */
import { hash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import type { DeviceErrorCode } from '#shared/deployment.ts';
import type { ChunkRecord } from '#shared/transfer/chunk-index.ts';
import { storageRefusal } from '../process/system-error.ts';
import { stopped, TransferError } from '../server/transfer-error.ts';
import type { PackOptions, PackSource } from './pack-source.ts';
import { openPieceSource, type PieceOptions, type PieceSource } from './piece-source.ts';
import { openSeeds, type Seed } from './seeds.ts';
import { openWindow, type Window } from './window.ts';

/** In a row without one new chunk. With the longest wait of a minute that is about half an hour. */
const ATTEMPTS_MAX = 60;
/** Of one chunk whose bytes hash wrong: a damaged line is possible, a damaged object likelier. */
const WRONG_HASHES_MAX = 3;
/** Of one chunk out of the pack: then it is asked for by itself, in case that it is the pack that is wrong. */
const PACK_TROUBLES_MAX = 3;
/** One after the other, each when the one before it was taken away. */
const PACKS_MAX = 3;

/**
 * After so many chunks in a row that were not there only one in 32 is looked for, until one is: what one attempt left
 * behind, and what an older version has in the same place, comes in long runs; to read all of a slot that holds neither
 * takes as long as filling it.
 */
const MISSES_MAX = 64;
const LOOK_EVERY = 32;

/** Where the artifact's bytes came from. */
export type Origins = { there: number; repeated: number; seed: number; network: number };

export type AssembleOptions = {
  artifact: { sha256: string; bytes: number };
  records: readonly ChunkRecord[];
  destination: {
    /** Made if it is not there. */
    file: string;
    /** A file of the artifact's own, which gets its length; else a slot, whose rest stays as it is. */
    own: boolean;
  };
  seeds: readonly Seed[];
  /** Opened when the first chunk lacks, with the bytes that are assembled, for its dictionaries. */
  pack: (given: Pick<PackOptions, 'recent' | 'lacks'>) => Promise<PackSource | null>;
  open: PieceOptions['open'];
  signal: AbortSignal;
  /** Waits before the given attempt. */
  pause: (attempt: number, signal: AbortSignal) => Promise<unknown>;
  /** Bytes of the artifact that are known to be right. */
  onProgress: (bytesDone: number) => void;
  /** So many bytes are flushed to the disk. */
  onFlushed: (bytes: number) => void;
  /** The network gave nothing, or something wrong; it is tried again after this. */
  onTrouble: (trouble: { code: DeviceErrorCode; message: string; attempts: number }) => void;
};

export type AssembleResult = { ok: true; origins: Origins } | { ok: false; code: DeviceErrorCode; message: string };

/**
 * Codes: `FETCH_FAILED` (also when aborted), `SLOW_RETRIEVAL`, `ENDLESS_DATA`, `TARGET_HASH`, `NO_SPACE`,
 * `WRITE_FAILED`.
 */
export const assemble = async (options: AssembleOptions): Promise<AssembleResult> => {
  const { destination, artifact } = options;
  let file: FileHandle | undefined;
  try {
    file = await open(destination.file, constants.O_RDWR | (destination.own ? constants.O_CREAT : 0), 0o600);
    if (destination.own && (await file.stat()).size > artifact.bytes) await file.truncate(artifact.bytes);
    const origins = await assembleInto(file, options);
    return { ok: true, origins };
  } catch (error) {
    if (error instanceof TransferError) return { ok: false, code: error.code, message: error.message };
    return storageRefusal(error, 'the artifact cannot be written');
  } finally {
    await file?.close();
  }
};

/** Where chunks come from that are not in this file already. */
type Sources = {
  seeds: ReturnType<typeof openSeeds>;
  lacks: PackOptions['lacks'];
  pieces: PieceSource;
  /** Undefined: not asked for yet. */
  pack: PackSource | null | undefined;
  packsAsked: number;
};

const assembleInto = async (file: FileHandle, options: AssembleOptions): Promise<Origins> => {
  const { records, signal } = options;
  const origins: Origins = { there: 0, repeated: 0, seed: 0, network: 0 };
  const window = openWindow(file, options.onFlushed);
  /** Where each chunk is in what has been put so far. */
  const placed = new Map<string, number>();
  const seeds = openSeeds(options.seeds);
  const lacks = (number: number): boolean => {
    const { sha256 } = records[number]!;
    return !seeds.has(sha256) && !placed.has(sha256);
  };
  const sources: Sources = {
    seeds,
    lacks,
    pieces: openPieceSource({ ...options, lacks }),
    pack: undefined,
    packsAsked: 0,
  };
  let atEnd = false;
  let misses = 0;
  let offset = 0;

  const isThere = async (place: Buffer, number: number, { sha256, bytes }: ChunkRecord): Promise<boolean> => {
    if (atEnd || (misses >= MISSES_MAX && number % LOOK_EVERY !== 0)) return false;
    const { bytesRead } = await file.read(place, 0, bytes, offset);
    // Behind its end there is nothing.
    atEnd = bytesRead < bytes;
    const there = !atEnd && hash('sha256', place) === sha256;
    misses = there ? 0 : misses + 1;
    return there;
  };
  /** Puts the next chunk, and says where it came from. */
  const put = async (number: number, record: ChunkRecord): Promise<keyof Origins> => {
    // What the window gives stays valid until the chunk has been put.
    const place = await window.place(record.bytes);
    if (await isThere(place, number, record)) {
      window.put(record.bytes, false);
      return 'there';
    }
    const at = placed.get(record.sha256);
    const { bytes, origin } = await findChunk(options, sources, window, { number, offset, repeatedAt: at });
    place.set(bytes);
    window.put(record.bytes, true);
    return origin;
  };

  try {
    for (const [number, record] of records.entries()) {
      if (signal.aborted) throw stopped();
      origins[await put(number, record)] += record.bytes;
      if (!placed.has(record.sha256)) placed.set(record.sha256, offset);
      offset += record.bytes;
      options.onProgress(offset);
    }
    await window.finish();
    return origins;
  } finally {
    await window.settle();
    sources.pieces.close();
    sources.pack?.close();
  }
};

type Wanted = { number: number; offset: number };

/** The nearest source first. What it gives has been hashed. */
const findChunk = async (
  options: AssembleOptions,
  sources: Sources,
  window: Window,
  wanted: Wanted & { repeatedAt: number | undefined },
): Promise<{ bytes: Buffer; origin: keyof Origins }> => {
  const record = options.records[wanted.number]!;
  if (wanted.repeatedAt !== undefined) {
    const bytes = await window.recent(wanted.repeatedAt, record.bytes);
    if (hash('sha256', bytes) === record.sha256) return { bytes, origin: 'repeated' };
  }
  const held = await sources.seeds.chunk(record);
  if (held !== undefined) return { bytes: held, origin: 'seed' };
  if (sources.pack === undefined || (sources.pack?.gone() === true && sources.packsAsked < PACKS_MAX)) {
    sources.packsAsked += 1;
    sources.pack = await options.pack({ recent: window.recent, lacks: sources.lacks });
  }
  return { bytes: await fetchChunk(options, sources, wanted), origin: 'network' };
};

/**
 * One chunk, whatever it takes within the budget: from the pack, else piece by piece; one that is wrong is fetched
 * alone.
 */
const fetchChunk = async (
  options: AssembleOptions,
  { pack, pieces }: Sources,
  { number, offset }: Wanted,
): Promise<Buffer> => {
  const { signal } = options;
  const { sha256 } = options.records[number]!;
  let wrong = 0;
  let packTroubles = 0;
  const fromPack = (): Promise<Buffer | undefined> | undefined =>
    pack?.chunk(number, offset).catch((error: unknown) => {
      packTroubles += 1;
      throw error;
    });
  for (let attempts = 0; ; ) {
    try {
      const packed = wrong > 0 || packTroubles >= PACK_TROUBLES_MAX ? undefined : await fromPack();
      if (packed !== undefined) return packed;
      const alone = wrong > 0 || pack?.useless() === false;
      const bytes = await pieces.chunk(number, offset, alone);
      if (hash('sha256', bytes) === sha256) {
        if (packTroubles > 0) await pack?.outdone();
        return bytes;
      }
      wrong += 1;
      const message = `chunk ${number} does not have the SHA-256 ${sha256}`;
      if (wrong >= WRONG_HASHES_MAX) throw new TransferError('TARGET_HASH', message, { retry: false });
      options.onTrouble({ code: 'TARGET_HASH', message, attempts: wrong });
    } catch (error) {
      if (!(error instanceof TransferError) || !error.retry || signal.aborted) throw error;
      attempts += 1;
      // A server that sends too much does so on purpose.
      if (error.code === 'ENDLESS_DATA') wrong += 1;
      if (attempts >= ATTEMPTS_MAX || wrong >= WRONG_HASHES_MAX) throw error;
      options.onTrouble({ code: error.code, message: error.message, attempts });
      await options.pause(attempts, signal);
      if (signal.aborted) throw stopped();
    }
  }
};

/**
 * Chunks without a pack: one by one by their digests, compressed on their way; or, where many lack in a row and the
 * last ones did not get smaller by that, out of one range of the whole artifact. Nothing is checked here.
 */
import { objectPath } from '#shared/device-api.ts';
import type { ChunkRecord } from '#shared/transfer/chunk-index.ts';
import { openFrame } from '#shared/transfer/pack.ts';
import type { ByteStream } from '../server/stream.ts';
import { TransferError } from '../server/transfer-error.ts';

const SKIP_BYTES_MAX = 256 * 1024;
/**
 * So many in a row are worth a range. After so many it is tried again whether they compress; if not, the next range is
 * twice as long, once this one was read to its end.
 */
const RUN_CHUNKS_MIN = 4;
const RUN_CHUNKS_FIRST = 64;
const RUN_CHUNKS_MAX = 1024;
/** A frame that is not shorter than this part of its chunk: what is here does not compress. */
const COMPRESSES = 0.95;

export type PieceOptions = {
  artifact: { sha256: string; bytes: number };
  records: readonly ChunkRecord[];
  /** Which chunks lack, as far as that can be known before. */
  lacks: (number: number) => boolean;
  /** `zstd`: it may come compressed. */
  open: (path: string, start: number, end: number, bytes: number, zstd: boolean) => Promise<ByteStream>;
};

export type PieceSource = {
  /**
   * The bytes of chunk `number`, not checked. `alone`: of the chunk's own object, if there is one, as it is. Throws
   * TransferError.
   */
  chunk(number: number, offset: number, alone: boolean): Promise<Buffer>;
  close(): void;
};

export const openPieceSource = ({ artifact, records, lacks, open }: PieceOptions): PieceSource => {
  let run: { stream: ByteStream; end: number; skipMax: number } | undefined;
  /** What the server does not have; it may know chunks of none but new artifacts, or keep no whole ones. */
  let noChunks = false;
  let noWhole = false;
  let compresses = true;
  let runChunksMax = RUN_CHUNKS_FIRST;

  const closeRun = (): void => {
    run?.stream.close();
    run = undefined;
  };
  /** How many lack in a row, this one at least, and where they end. */
  const runFrom = (number: number, offset: number): { chunks: number; end: number } => {
    let end = offset + records[number]!.bytes;
    const last = noChunks ? records.length : Math.min(records.length, number + runChunksMax);
    let next = number + 1;
    for (; next < last && lacks(next); next += 1) end += records[next]!.bytes;
    return { chunks: next - number, end };
  };
  const begin = async (offset: number, end: number): Promise<void> => {
    closeRun();
    const stream = await open(objectPath(artifact.sha256), offset, end, artifact.bytes, false);
    // Who knows no ranges sends all of it each time: so it is read on.
    const isAll = stream.position() < offset;
    run = { stream, end: isAll ? artifact.bytes : end, skipMax: isAll ? artifact.bytes : SKIP_BYTES_MAX };
  };
  const reaches = (offset: number, bytes: number): boolean => {
    const gap = run === undefined ? -1 : offset - run.stream.position();
    return gap >= 0 && gap <= run!.skipMax && offset + bytes <= run!.end;
  };
  const fromRun = async (offset: number, bytes: number): Promise<Buffer> => {
    const { stream, end } = run!;
    try {
      await stream.skip(offset - stream.position());
      const taken = await stream.take(bytes);
      if (stream.position() < end) return taken;
      closeRun();
      runChunksMax = Math.min(2 * runChunksMax, RUN_CHUNKS_MAX);
      return taken;
    } catch (error) {
      closeRun();
      throw error;
    }
  };
  const single = async ({ sha256, bytes }: ChunkRecord, zstd: boolean): Promise<Buffer> => {
    const stream = await open(objectPath(sha256), 0, bytes, bytes, zstd);
    try {
      const frame = await stream.frame();
      compresses = frame !== undefined && frame.length < COMPRESSES * bytes;
      if (compresses) runChunksMax = RUN_CHUNKS_FIRST;
      return frame === undefined ? await stream.take(bytes) : unpacked(frame, bytes);
    } finally {
      stream.close();
    }
  };
  const isMissing = (error: unknown): boolean => error instanceof TransferError && error.missing;

  return {
    chunk: async (number, offset, alone) => {
      const record = records[number]!;
      if (!alone && reaches(offset, record.bytes)) return fromRun(offset, record.bytes);
      if (!alone) closeRun();
      const { chunks, end } = runFrom(number, offset);
      if (!noWhole && !alone && (noChunks || !compresses) && chunks >= RUN_CHUNKS_MIN) {
        try {
          await begin(offset, end);
          compresses = true;
          return await fromRun(offset, record.bytes);
        } catch (error) {
          if (!isMissing(error)) throw error;
          noWhole = true;
        }
      }
      if (!noChunks) {
        try {
          return await single(record, !alone);
        } catch (error) {
          if (!isMissing(error) || noWhole) throw error;
          noChunks = true;
        }
      }
      if (!reaches(offset, record.bytes)) await begin(offset, alone ? offset + record.bytes : end);
      return fromRun(offset, record.bytes);
    },
    close: closeRun,
  };
};

/** Damage is for the caller to find: no chunk hashes like this. */
const unpacked = (frame: Buffer, bytes: number): Buffer => {
  try {
    return openFrame(frame, null, bytes);
  } catch {
    return frame;
  }
};

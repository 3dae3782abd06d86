/**
 * Chunks without a pack: one by one by their digests, or, where many lack in a row, out of one range of the whole artifact. Both are
 * raw bytes, and neither is checked here.
 */
import { objectPath } from '#shared/device-api.ts';
import type { ChunkRecord } from '#shared/transfer/chunk-index.ts';
import type { ByteStream } from './stream.ts';
import { Trouble } from './trouble.ts';

const SKIP_BYTES_MAX = 256 * 1024;
/** So many in a row are one request. */
const RUN_CHUNKS_MIN = 4;

export type PieceOptions = {
  artifact: { sha256: string; bytes: number };
  records: readonly ChunkRecord[];
  /** Which chunks lack, as far as that can be known before. */
  lacks: (number: number) => boolean;
  open: (path: string, start: number, end: number, bytes: number) => Promise<ByteStream>;
};

export type PieceSource = {
  /** The bytes of chunk `number`, not checked. `alone`: of the chunk's own object, if there is one. Throws Trouble. */
  chunk(number: number, offset: number, alone: boolean): Promise<Buffer>;
  close(): void;
};

export const openPieceSource = ({ artifact, records, lacks, open }: PieceOptions): PieceSource => {
  let run: { stream: ByteStream; end: number } | undefined;
  /** What the server does not have; it may know chunks of none but new artifacts, or keep no whole ones. */
  let noChunks = false;
  let noWhole = false;

  const closeRun = (): void => {
    run?.stream.close();
    run = undefined;
  };
  const runEnd = (number: number, offset: number): number => {
    let end = offset;
    for (let next = number; next < records.length && lacks(next); next += 1) end += records[next]!.bytes;
    return Math.max(end, offset + records[number]!.bytes);
  };
  const fromRun = async (number: number, offset: number, end: number): Promise<Buffer> => {
    const { bytes } = records[number]!;
    const gap = run === undefined ? -1 : offset - run.stream.position();
    if (run === undefined || gap < 0 || gap > SKIP_BYTES_MAX || offset + bytes > run.end) {
      closeRun();
      run = { stream: await open(objectPath(artifact.sha256), offset, end, artifact.bytes), end };
    }
    try {
      await run.stream.skip(offset - run.stream.position());
      return await run.stream.take(bytes);
    } catch (error) {
      closeRun();
      throw error;
    }
  };
  const single = async ({ sha256, bytes }: ChunkRecord): Promise<Buffer> => {
    const stream = await open(objectPath(sha256), 0, bytes, bytes);
    try {
      return await stream.take(bytes);
    } finally {
      stream.close();
    }
  };
  const isMissing = (error: unknown): boolean => error instanceof Trouble && error.missing;

  return {
    chunk: async (number, offset, alone) => {
      const record = records[number]!;
      const end = runEnd(number, offset);
      const many =
        run !== undefined || number + RUN_CHUNKS_MIN > records.length || end - offset > RUN_CHUNKS_MIN * record.bytes;
      if (!noWhole && !alone && many) {
        try {
          return await fromRun(number, offset, end);
        } catch (error) {
          if (!isMissing(error)) throw error;
          noWhole = true;
        }
      }
      if (!noChunks) {
        try {
          return await single(record);
        } catch (error) {
          if (!isMissing(error) || noWhole) throw error;
          noChunks = true;
        }
      }
      return fromRun(number, offset, offset + record.bytes);
    },
    close: closeRun,
  };
};

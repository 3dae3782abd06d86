/** An artifact kept compressed such that any range of it can be read: one zstd frame a chunk, and their lengths. */
import { open } from 'node:fs/promises';
import { constants, zstdCompressSync } from 'node:zlib';
import type { ChunkRecord } from '#shared/transfer/chunk-index.ts';
import { FRAME_BYTES_MAX, openFrame, WINDOW_LOG } from '#shared/transfer/pack.ts';

/** On text and native code about a third is left; higher levels cost a device much time for little. */
const LEVEL = 3;
const LENGTH_BYTES = 4;
/** A dictionary of 256 KiB touches about this many, and the next one mostly the same. */
const OPENED_MAX = 8;

/** Frames in `to`, flushed; returns their lengths, as `readFrames` wants them. Throws the system's error. */
export const writeFrames = async (from: string, to: string, records: readonly ChunkRecord[]): Promise<Buffer> => {
  const lengths = Buffer.alloc(records.length * LENGTH_BYTES);
  const [source, sink] = [await open(from, 'r'), await open(to, 'w', 0o600)];
  const params = { [constants.ZSTD_c_compressionLevel]: LEVEL, [constants.ZSTD_c_windowLog]: WINDOW_LOG };
  try {
    for (const [number, { bytes }] of records.entries()) {
      const chunk = Buffer.allocUnsafe(bytes);
      const { bytesRead } = await source.read(chunk, 0, bytes);
      if (bytesRead !== bytes) throw new RangeError(`${from} is shorter than its index`);
      const frame = zstdCompressSync(chunk, { params });
      lengths.writeUInt32LE(frame.length, number * LENGTH_BYTES);
      await sink.writeFile(frame);
    }
    await sink.sync();
    return lengths;
  } finally {
    await source.close();
    await sink.close();
  }
};

/** What it gives is valid until the next call. */
export type RangeReader = { read: (offset: number, bytes: number) => Promise<Buffer>; close: () => Promise<void> };

/** Undefined when the lengths cannot be those of such frames. */
export const readFrames = async (
  file: string,
  lengths: Buffer,
  records: readonly ChunkRecord[],
): Promise<RangeReader | undefined> => {
  if (lengths.length !== records.length * LENGTH_BYTES) return undefined;
  /** Where each chunk begins, in the artifact and in the file. */
  const places: { at: number; frameAt: number; frameBytes: number }[] = [];
  let [at, frameAt] = [0, 0];
  for (const [number, { bytes }] of records.entries()) {
    const frameBytes = lengths.readUInt32LE(number * LENGTH_BYTES);
    if (frameBytes > FRAME_BYTES_MAX(bytes)) return undefined;
    places.push({ at, frameAt, frameBytes });
    at += bytes;
    frameAt += frameBytes;
  }
  const source = await readPlain(file);
  const opened = new Map<number, Buffer>();
  const chunk = async (number: number): Promise<Buffer> => {
    const known = opened.get(number);
    if (known !== undefined) return known;
    const place = places[number]!;
    const frame = await source.read(place.frameAt, place.frameBytes);
    const bytes = openFrame(frame, null, records[number]!.bytes);
    opened.set(number, bytes);
    const oldest = opened.size > OPENED_MAX ? opened.keys().next().value : undefined;
    if (oldest !== undefined) opened.delete(oldest);
    return bytes;
  };
  return {
    read: async (offset, bytes) => {
      if (offset < 0 || offset + bytes > at) throw new RangeError('beyond the artifact');
      const pieces: Buffer[] = [];
      for (let number = lastNotBehind(places, offset); number < places.length; number += 1) {
        const { at: start } = places[number]!;
        if (start >= offset + bytes) break;
        pieces.push((await chunk(number)).subarray(Math.max(0, offset - start), offset + bytes - start));
      }
      return pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces, bytes);
    },
    close: source.close,
  };
};

const lastNotBehind = (places: { at: number }[], offset: number): number => {
  let [low, high] = [0, places.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (places[middle]!.at <= offset) low = middle;
    else high = middle - 1;
  }
  return low;
};

const AHEAD_BYTES = 1024 * 1024;

/**
 * The bytes of a file as they are. Chunks are mostly read one behind the other, so more is read at once than is asked
 * for.
 */
export const readPlain = async (file: string): Promise<RangeReader> => {
  const handle = await open(file, 'r');
  let held: Buffer = Buffer.alloc(0);
  let heldAt = 0;
  const readAt = async (into: Buffer, offset: number): Promise<Buffer> => {
    const { bytesRead } = await handle.read(into, 0, into.length, offset);
    return into.subarray(0, bytesRead);
  };
  return {
    read: async (offset, bytes) => {
      let found = held.subarray(Math.max(0, offset - heldAt), offset - heldAt + bytes);
      if (offset < heldAt || found.length < bytes) {
        if (bytes > AHEAD_BYTES / 4) found = await readAt(Buffer.allocUnsafe(bytes), offset);
        else {
          held = await readAt(held.length === AHEAD_BYTES ? held : Buffer.allocUnsafeSlow(AHEAD_BYTES), offset);
          heldAt = offset;
          found = held.subarray(0, bytes);
        }
      }
      if (found.length !== bytes) throw new RangeError('beyond the file');
      return found;
    },
    close: () => handle.close(),
  };
};

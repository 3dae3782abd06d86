/**
 * Cuts bytes into chunks where their content says so (FastCDC), so that an insertion moves boundaries only near itself:
 * two versions of an artifact share most of their chunks. Every device and every server must cut alike forever, so
 * whatever is in this file is pinned by `CHUNKING_FORMAT`. docs/transfer.md specifies it.
 */
import { createHash } from 'node:crypto';

/** Of the gear table and the sizes below. Another way of cutting is another format. */
export const CHUNKING_FORMAT = 1;
/** Shorter is only the last chunk of an artifact. */
export const CHUNK_BYTES_MIN = 16 * 1024;
const CHUNK_BYTES_USUAL = 64 * 1024;
/** Fits, with its header, an MQTT message of 128 KB. */
export const CHUNK_BYTES_MAX = 112 * 1024;

/**
 * Bits of the hash that must be zero: 16 would be one cut in 64 KiB; normalisation 2 asks for more before that size,
 * for fewer behind it.
 */
const SHIFT_BEFORE = 32 - (16 + 2);
const SHIFT_BEHIND = 32 - (16 - 2);
/** How many bytes a 32-bit gear hash remembers. */
export const GEAR_WINDOW = 32;
/** One word for each byte value: the first four bytes, little-endian, of SHA-256("gear" + the value in decimal). */
export const GEAR = Int32Array.from({ length: 256 }, (_, value) =>
  createHash('sha256').update(`gear${value}`).digest().readInt32LE(0),
);

/**
 * Behind the first byte in `from` <= byte < `to` with so many bits of the hash zero; -1: there is none. What is before
 * `from` is read, but gives no boundary.
 */
const boundary = (bytes: Uint8Array, from: number, to: number, shift: number): number => {
  const gear = GEAR;
  let at = from;
  let hash = hashBefore(bytes, at);
  // Four at once, with one branch: three times as fast as byte by byte.
  for (; at < to - 3; at += 4) {
    const a = ((hash << 1) + gear[bytes[at]!]!) | 0;
    const b = ((a << 1) + gear[bytes[at + 1]!]!) | 0;
    const c = ((b << 1) + gear[bytes[at + 2]!]!) | 0;
    hash = ((c << 1) + gear[bytes[at + 3]!]!) | 0;
    if (a >>> shift === 0 || b >>> shift === 0 || c >>> shift === 0 || hash >>> shift === 0) break;
  }
  // One of these four, or what is left.
  hash = hashBefore(bytes, at);
  for (; at < to; at += 1) {
    hash = ((hash << 1) + gear[bytes[at]!]!) | 0;
    if (hash >>> shift === 0) return at + 1;
  }
  return -1;
};
/** All that the hash remembers. */
const hashBefore = (bytes: Uint8Array, end: number): number => {
  let hash = 0;
  for (let at = end - GEAR_WINDOW; at < end; at += 1) hash = ((hash << 1) + GEAR[bytes[at]!]!) | 0;
  return hash;
};

/** Where the chunk that begins at `start` ends; what is behind `end` does not exist. */
const cutAfter = (bytes: Uint8Array, start: number, end: number): number => {
  if (end - start <= CHUNK_BYTES_MIN) return end;
  const last = Math.min(start + CHUNK_BYTES_MAX, end);
  const usual = Math.min(start + CHUNK_BYTES_USUAL, last);
  const early = boundary(bytes, start + CHUNK_BYTES_MIN, usual, SHIFT_BEFORE);
  if (early !== -1) return early;
  const late = boundary(bytes, usual, last, SHIFT_BEHIND);
  return late === -1 ? last : late;
};

export type Chunker = {
  /** Takes the next bytes; returns the chunks that are complete. */
  push(bytes: Uint8Array): Buffer[];
  /** What is left, at the end of the artifact. */
  end(): Buffer[];
};

const HELD_BYTES = 4 * CHUNK_BYTES_MAX;

/** One for each artifact. Chunks are copies; memory is bounded by what is pushed at once and half a megabyte. */
export const openChunker = (): Chunker => {
  let chunks: Buffer[] = [];
  const cutter = openCutter((view) => void chunks.push(Buffer.from(view)));
  const taken = (): Buffer[] => {
    const result = chunks;
    chunks = [];
    return result;
  };
  return {
    push: (bytes) => {
      cutter.push(bytes);
      return taken();
    },
    end: () => {
      cutter.end();
      return taken();
    },
  };
};

/** The same without copies: what `onChunk` gets is there only while it runs. */
export const openCutter = (onChunk: (view: Buffer) => void): { push(bytes: Uint8Array): void; end(): void } => {
  const held = Buffer.allocUnsafeSlow(HELD_BYTES);
  let filled = 0;
  /** Cuts off what can no longer change: a boundary depends on nothing beyond the largest chunk. */
  const cut = (whole: boolean): void => {
    let start = 0;
    while (filled - start >= (whole ? 1 : CHUNK_BYTES_MAX)) {
      const end = cutAfter(held, start, filled);
      onChunk(held.subarray(start, end));
      start = end;
    }
    held.copyWithin(0, start, filled);
    filled -= start;
  };
  return {
    push: (bytes) => {
      let taken = 0;
      while (taken < bytes.length) {
        const piece = bytes.subarray(taken, taken + HELD_BYTES - filled);
        held.set(piece, filled);
        filled += piece.length;
        taken += piece.length;
        if (filled === HELD_BYTES) cut(false);
      }
    },
    end: () => cut(true),
  };
};

/**
 * The artifact as it grows: chunks are put one behind the other into memory, written in batches while the next are made
 * (each by itself where they come slowly), and flushed every 8 MiB. What was put last stays in memory, since frames of
 * kind 2 want it for a dictionary.
 */
import type { FileHandle } from 'node:fs/promises';
import { CHUNK_BYTES_MAX } from '#shared/transfer/chunker.ts';
import { DICTIONARY_BYTES_MAX } from '#shared/transfer/pack.ts';

const BATCH_BYTES = 512 * 1024;
/** What comes slowly is written this often, so that a killed agent has not received much in vain. */
const BATCH_MS = 1_000;
const TAIL_BYTES = DICTIONARY_BYTES_MAX;
/** Flushed this often, so that a cut loses little and the last flush does not take long. */
const FLUSH_BYTES = 8 * 1024 * 1024;

/**
 * `base`: offset in the artifact of the memory's first byte. `dirty`: what of it is still to be written, merged where
 * it touches.
 */
type Part = { memory: Buffer; base: number; filled: number; dirty: { start: number; end: number }[] };
const part = (): Part => ({
  memory: Buffer.allocUnsafeSlow(TAIL_BYTES + BATCH_BYTES + CHUNK_BYTES_MAX),
  base: 0,
  filled: 0,
  dirty: [],
});

export type Window = {
  /** Where the next chunk goes: fill it, then `put`. Nothing that `recent` gave is valid any more. */
  place: (bytes: number) => Promise<Buffer>;
  /** Takes what is in the place as the next so many bytes of the artifact. `write`: it is not in the file yet. */
  put: (bytes: number, write: boolean) => void;
  /** Bytes that were put before; valid until the next `place`. */
  recent: (offset: number, bytes: number) => Promise<Buffer>;
  /** Everything that was put is in the file, and flushed. */
  finish: () => Promise<void>;
  /** Waits for what is under way; never rejects. */
  settle: () => Promise<void>;
};

/**
 * Throws the system's errors of `file`. `onFlushed`: so many bytes of the artifact are on the disk for sure. `clock`:
 * milliseconds that never go back.
 */
export const openWindow = (
  file: FileHandle,
  onFlushed: (bytes: number) => void,
  clock: () => number = () => performance.now(),
): Window => {
  let now = part();
  let before = part();
  let writing: Promise<void> = Promise.resolve();
  let flushing: Promise<void> = Promise.resolve();
  let unflushed = 0;
  let turnedAt = clock();

  const write = async ({ memory, base, filled, dirty }: Part): Promise<void> => {
    for (const { start, end } of dirty) {
      for (let at = start; at < end; ) at += (await file.write(memory, at, end - at, base + at)).bytesWritten;
      unflushed += end - start;
    }
    if (unflushed < FLUSH_BYTES) return;
    unflushed = 0;
    // While one flush is under way writing goes on; only the next flush waits for it.
    await flushing;
    flushing = file.datasync().then(() => onFlushed(base + filled));
    flushing.catch(() => undefined);
  };
  /** Begins to write what was put, and goes on behind it in the other memory. */
  const turn = async (): Promise<void> => {
    await writing;
    turnedAt = clock();
    const done = now;
    now = before;
    const tail = Math.min(TAIL_BYTES, done.filled);
    done.memory.copy(now.memory, 0, done.filled - tail, done.filled);
    Object.assign(now, { base: done.base + done.filled - tail, filled: tail, dirty: [] });
    before = done;
    writing = write(done);
    // Awaited at the next turn; until then a failure must not count as unhandled.
    writing.catch(() => undefined);
  };

  return {
    place: async (bytes) => {
      const late = now.dirty.length > 0 && clock() - turnedAt >= BATCH_MS;
      if (late || now.filled + bytes > now.memory.length) await turn();
      return now.memory.subarray(now.filled, now.filled + bytes);
    },
    put: (bytes, isNew) => {
      const { filled, dirty } = now;
      const last = dirty.at(-1);
      if (isNew && last?.end === filled) last.end += bytes;
      else if (isNew) dirty.push({ start: filled, end: filled + bytes });
      now.filled += bytes;
    },
    recent: async (offset, bytes) => {
      for (const { memory, base, filled } of [now, before]) {
        if (offset >= base && offset + bytes <= base + filled)
          return memory.subarray(offset - base, offset - base + bytes);
      }
      // Longer ago than what is being written.
      await writing;
      const found = Buffer.allocUnsafe(bytes);
      const { bytesRead } = await file.read(found, 0, bytes, offset);
      return found.subarray(0, bytesRead);
    },
    finish: async () => {
      await turn();
      await writing;
      await flushing;
      await file.sync();
    },
    settle: async () => {
      await writing.catch(() => undefined);
      await flushing.catch(() => undefined);
    },
  };
};

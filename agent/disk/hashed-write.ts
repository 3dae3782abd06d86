/** Writing a stream to a file while hashing it: the one inner loop of downloading and of unpacking. */
import type { Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';

const BATCH_BYTES = 1024 * 1024;
/** A slow source is written this often, so that a killed agent has not received much in vain. */
const BATCH_MS = 1_000;
/** Flushed this often, so that a cut loses little and the last flush does not take long. */
const FLUSH_BYTES = 8 * 1024 * 1024;

/**
 * Writes `body` at the file's position, in order, and feeds `hash` with the same bytes. While one batch is being
 * written the next one is received and hashed, so memory stays at two batches. `handle` is not used any more when this
 * settles. `onWritten` gets the bytes of this call that the file has. Whatever fails, everything that was received
 * before is in the file when this rejects, so that a download can resume.
 */
export const writeHashed = async (
  handle: FileHandle,
  body: AsyncIterable<Uint8Array>,
  hash: Hash,
  onWritten?: (bytes: number) => void,
): Promise<number> => {
  let batch: Uint8Array[] = [];
  let batchBytes = 0;
  let unflushed = 0;
  let written = 0;
  let writing: Promise<void> = Promise.resolve();
  let flushing: Promise<void> = Promise.resolve();
  let batchedAt = performance.now();

  const writeBatch = async (): Promise<void> => {
    await writing;
    const [pieces, bytes] = [batch, batchBytes];
    batch = [];
    batchBytes = 0;
    batchedAt = performance.now();
    writing = (async () => {
      await writeAll(handle, pieces, bytes);
      written += bytes;
      unflushed += bytes;
      onWritten?.(written);
      if (unflushed < FLUSH_BYTES) return;
      unflushed = 0;
      // While one flush is under way writing goes on; only the next flush waits for it.
      await flushing;
      flushing = handle.datasync();
      flushing.catch(() => undefined);
    })();
    // Awaited at the next batch; until then a failure must not count as unhandled.
    writing.catch(() => undefined);
  };

  try {
    for await (const chunk of body) {
      hash.update(chunk);
      batch.push(chunk);
      batchBytes += chunk.length;
      if (batchBytes >= BATCH_BYTES || performance.now() - batchedAt >= BATCH_MS) await writeBatch();
    }
  } finally {
    if (batchBytes > 0) await writeBatch();
    await writing;
    await flushing;
  }
  return written;
};

const writeAll = async (handle: FileHandle, pieces: Uint8Array[], bytes: number): Promise<void> => {
  const { bytesWritten } = await handle.writev(pieces);
  if (bytesWritten === bytes) return;
  // A short write: the rest in one piece, which the library repeats until it is done or fails.
  await handle.writeFile(Buffer.concat(pieces).subarray(bytesWritten));
};

/** The bytes of a file, in pieces of `pieceBytes`. */
export const readChunks = (file: string, pieceBytes: number, signal?: AbortSignal): AsyncIterable<Buffer> =>
  createReadStream(file, { highWaterMark: pieceBytes, ...(signal === undefined ? {} : { signal }) });

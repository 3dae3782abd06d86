/**
 * Reading files as the disk holds them, not as the page cache remembers them: with O_DIRECT where the file system has
 * it, so that a bit lost on the way to the disk is seen (faults 15).
 */
import { createHash } from 'node:crypto';
import { constants, readSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { errorCode } from '../process/system-error.ts';

const PIECE_BYTES = 1024 * 1024;
/** O_DIRECT wants memory aligned to the device's blocks, at most this. */
const ALIGNMENT_MAX = 4096;
const READ = constants.O_RDONLY | constants.O_NOFOLLOW;

export type StoredReader = {
  /**
   * SHA-256 and length of the content of a file or block device as stored, of its first `bytesMax` bytes; not for two
   * at once. Throws the system's error, or the reason of `signal`.
   */
  hash(file: string, bytesMax?: number, signal?: AbortSignal): Promise<{ sha256: string; bytes: number }>;
};

/** A reader with two buffers of its own (2 MiB): one is filled while the other is hashed. */
export const openStoredReader = (): StoredReader => {
  const memory = Buffer.allocUnsafeSlow(2 * PIECE_BYTES + ALIGNMENT_MAX);
  let alignment: number | 'unknown' | 'none' = 'unknown';

  const hashWith = async (
    handle: FileHandle,
    start: number,
    bytesMax: number,
    signal: AbortSignal | undefined,
  ): Promise<{ sha256: string; bytes: number }> => {
    const pieces = [0, 1].map((index) => {
      const at = start + index * PIECE_BYTES;
      return memory.subarray(at, at + PIECE_BYTES);
    });
    const hash = createHash('sha256');
    let bytes = 0;
    let reading = handle.read(pieces[0]!, 0, PIECE_BYTES, 0);
    for (let turn = 0; ; turn += 1) {
      const { bytesRead } = await reading;
      signal?.throwIfAborted();
      const wanted = Math.min(bytesRead, bytesMax - bytes);
      bytes += wanted;
      // A short read of a regular file is its end, and with O_DIRECT no position after it would be aligned.
      const last = bytesRead < PIECE_BYTES || bytes === bytesMax;
      if (!last) reading = handle.read(pieces[(turn + 1) % 2]!, 0, PIECE_BYTES, bytes);
      hash.update(pieces[turn % 2]!.subarray(0, wanted));
      if (last) return { sha256: hash.digest('hex'), bytes };
    }
  };

  return {
    hash: async (file, bytesMax = Number.POSITIVE_INFINITY, signal?) => {
      if (alignment !== 'none') {
        const direct = await open(file, READ | constants.O_DIRECT).catch(ignoreUnsupported);
        try {
          if (direct !== undefined) {
            if (alignment === 'unknown') alignment = findAlignment(direct, memory);
            if (typeof alignment === 'number') return await hashWith(direct, alignment, bytesMax, signal);
          }
        } catch (error) {
          ignoreUnsupported(error);
        } finally {
          await direct?.close();
        }
      }
      const handle = await open(file, READ);
      try {
        return await hashWith(handle, 0, bytesMax, signal);
      } finally {
        await handle.close();
      }
    },
  };
};

/** EINVAL is how a file system says that it has no O_DIRECT, or wants another alignment. */
const ignoreUnsupported = (error: unknown): undefined => {
  if (errorCode(error) !== 'EINVAL') throw error;
};

/**
 * JavaScript cannot see addresses, so the aligned offset of the buffer is found by trying. An empty file tells nothing.
 */
const findAlignment = (handle: FileHandle, memory: Buffer): number | 'unknown' | 'none' => {
  for (let offset = 0; offset < ALIGNMENT_MAX; offset += 8) {
    try {
      return readSync(handle.fd, memory, offset, ALIGNMENT_MAX, 0) === 0 ? 'unknown' : offset;
    } catch (error) {
      ignoreUnsupported(error);
    }
  }
  return 'none';
};

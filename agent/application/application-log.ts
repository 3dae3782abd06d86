/**
 * What the application writes, kept in two files of bounded size: `<file>` and, before it, `<file>.1`. A log that
 * cannot be written is not fatal (faults 18): what does not fit is dropped and counted, and the application is never
 * blocked.
 */
import { type FileHandle, open, rename } from 'node:fs/promises';

const QUEUE_BYTES_MAX = 1024 * 1024;

/** Appends to what is there. `bytesMax` is the size of one file at which it is rotated. */
export const openApplicationLog = (file: string, bytesMax: number): OutputSink => {
  let handle: FileHandle | undefined;
  let size = 0;
  let queue: Uint8Array[] = [];
  let queued = 0;
  let dropped = 0;
  let writing: Promise<void> = Promise.resolve();
  let busy = false;

  const drain = async (): Promise<void> => {
    while (queue.length > 0) {
      const notice = dropped === 0 ? '' : `[${dropped} bytes of output dropped]\n`;
      const bytes = Buffer.concat([...queue, Buffer.from(notice)]);
      queue = [];
      queued = 0;
      dropped = 0;
      try {
        await append(bytes);
      } catch {
        // The disk is full or broken. The application goes on; what was lost is said when writing works again.
        dropped += bytes.length;
      }
    }
    busy = false;
  };

  const append = async (bytes: Buffer): Promise<void> => {
    for (let at = 0; at < bytes.length; ) {
      if (handle === undefined) {
        handle = await open(file, 'a', 0o600);
        size = (await handle.stat()).size;
      }
      if (size >= bytesMax) {
        await handle.close();
        handle = undefined;
        await rename(file, `${file}.1`);
        continue;
      }
      const piece = bytes.subarray(at, at + bytesMax - size);
      await handle.writeFile(piece);
      at += piece.length;
      size += piece.length;
    }
  };

  return {
    write: (bytes) => {
      if (queued + bytes.length > QUEUE_BYTES_MAX) {
        dropped += bytes.length;
        return;
      }
      queue.push(bytes);
      queued += bytes.length;
      if (busy) return;
      busy = true;
      writing = drain();
    },
    close: async () => {
      await writing;
      // What a disk could not take shows only now on some file systems.
      await handle?.close().catch(() => undefined);
      handle = undefined;
    },
  };
};

/** What an earlier life has written last; nothing where it cannot be read. */
export const readLogEnd = async (file: string, bytesMax: number): Promise<Buffer> => {
  const ends = await Promise.all(
    [`${file}.1`, file].map((part) => readEnd(part, bytesMax).catch(() => Buffer.alloc(0))),
  );
  return Buffer.from(Buffer.concat(ends).subarray(-bytesMax));
};

const readEnd = async (file: string, bytesMax: number): Promise<Buffer> => {
  const handle = await open(file, 'r');
  try {
    const { size } = await handle.stat();
    const buffer = Buffer.alloc(Math.min(size, bytesMax));
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, size - buffer.length);
    return buffer.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
};

/** Neither blocks nor throws. */
export type OutputSink = { write(bytes: Uint8Array): void; close(): Promise<void> };

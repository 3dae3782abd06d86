/**
 * What the application writes, kept in two files of bounded size: `<file>` and, before it, `<file>.1`. A log that can not
 * be written is not fatal (faults 18): what does not fit is dropped and counted, and the application is never blocked.
 */
import { type FileHandle, open, readFile, rename } from 'node:fs/promises';
import { CUT } from './redact.ts';

const QUEUE_BYTES_MAX = 1024 * 1024;

export type ApplicationLog = {
  /** Queues bytes; returns at once. */
  write(bytes: Uint8Array): void;
  /** The last whole lines, at most `bytesMax` bytes, or the end of a longer one; waits for what is queued. */
  last(bytesMax: number): Promise<string>;
  close(): Promise<void>;
};

/** Appends to what is there. `bytesMax` is the size of one file at which it is rotated. */
export const openApplicationLog = async (file: string, bytesMax: number): Promise<ApplicationLog> => {
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
    last: async (wanted) => {
      await writing;
      const parts = await Promise.all([`${file}.1`, file].map((part) => readFile(part).catch(() => Buffer.alloc(0))));
      const all = Buffer.concat(parts);
      if (all.length <= wanted) return all.toString('utf8');
      const end = all.subarray(all.length - wanted);
      const line = end.indexOf(0x0a) + 1;
      return line === 0 ? `${CUT}${end.toString('utf8')}` : end.subarray(line).toString('utf8');
    },
    close: async () => {
      await writing;
      await handle?.close();
      handle = undefined;
    },
  };
};

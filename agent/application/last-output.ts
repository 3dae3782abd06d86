/**
 * The end of what the application wrote, in memory: the last lines before a failure are there whatever becomes of the
 * rest.
 */
import { CUT } from './redact.ts';

const BYTES_MAX = 64 * 1024;

export type LastOutput = {
  add(bytes: Uint8Array): void;
  /** The last whole lines, at most `bytesMax` bytes, or the end of a longer one. */
  last: (bytesMax: number) => string;
};

/** `earlier` is what was written before. */
export const keepLastOutput = (earlier: Uint8Array = Buffer.alloc(0)): LastOutput => {
  let kept: Uint8Array[] = [earlier];
  let bytes = earlier.length;
  let isWhole = true;
  return {
    add: (more) => {
      kept.push(more);
      bytes += more.length;
      if (bytes < 2 * BYTES_MAX) return;
      // Together, so that many short lines do not become as many buffers.
      const end = Buffer.concat(kept).subarray(-BYTES_MAX);
      kept = [Buffer.from(end)];
      bytes = end.length;
      isWhole = false;
    },
    last: (wanted) => {
      const all = Buffer.concat(kept);
      if (isWhole && all.length <= wanted) return all.toString('utf8');
      const end = all.subarray(Math.max(0, all.length - wanted));
      const line = end.indexOf(0x0a) + 1;
      return line === 0 ? `${CUT}${end.toString('utf8')}` : end.subarray(line).toString('utf8');
    },
  };
};

/** `status.json` in the data folder: what the agent is doing, for local programs. Replaced whole, not flushed: it is only about now. */
import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Running } from '#shared/deployment.ts';
import type { Memory } from './domain/install.ts';

export type Status = {
  v: 1;
  device: string;
  /** Milliseconds since 1970 of this word. */
  at: number;
  pid: number;
  state: Memory['install']['state'];
  deployment: string | null;
  release: string | null;
  progress: { bytesDone: number; bytesTotal: number } | null;
  error: { code: string; message: string } | null;
  running: Running | null;
  connected: boolean;
  /** Why the newest desired document was not believed. */
  refusal: { seq: number; code: string; message: string } | null;
};

export const openStatusFile = (dir: string, make: () => Promise<Status>) => {
  const file = join(dir, 'status.json');
  let writing: Promise<void> | undefined;
  let again = false;

  const write = async (): Promise<void> => {
    try {
      await writeFile(`${file}.tmp`, `${JSON.stringify(await make())}\n`);
      await rename(`${file}.tmp`, file);
    } catch {
      // Nothing depends on it: a full disk shows elsewhere.
    }
  };
  /** At most one write at a time; what changes meanwhile makes one more. */
  const changed = (): void => {
    if (writing !== undefined) {
      again = true;
      return;
    }
    writing = write().finally(() => {
      writing = undefined;
      if (!again) return;
      again = false;
      changed();
    });
  };
  return { changed, settled: async () => writing };
};

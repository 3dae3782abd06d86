/** `status.json` in the data folder: what the agent is doing, for local programs. Replaced whole, not flushed: it is only about now. */
import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Running } from '#shared/deployment.ts';
import { releaseRef } from '#shared/ids.ts';
import type { Refusal } from './desired.ts';
import type { InstallState } from './domain/install.ts';
import type { Progress } from './transfer/transfer.ts';

export type Facts = {
  device: string;
  at: number;
  progress: Progress | null;
  running: Running | null;
  connected: boolean;
  refusal: Refusal | null;
  install: InstallState;
};

/** `at` is in milliseconds since 1970; `refusal` is why the newest desired document was not believed. */
const statusOf = ({ install, ...facts }: Facts) => {
  const offered = install.state === 'idle' ? null : install.offer.install;
  return {
    v: 1,
    ...facts,
    pid: process.pid,
    state: install.state,
    deployment: offered?.deployment ?? null,
    release: offered === null ? null : releaseRef(offered.product, offered.version),
    error: 'error' in install ? install.error : null,
  };
};

export const openStatusFile = (dir: string, look: () => Promise<Facts>) => {
  const file = join(dir, 'status.json');
  let writing: Promise<void> | undefined;
  let again = false;

  const write = async (): Promise<void> => {
    try {
      await writeFile(`${file}.tmp`, `${JSON.stringify(statusOf(await look()))}\n`);
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

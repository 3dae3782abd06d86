/**
 * How far the fetch that goes on has got, or then an installer: told now and then; of the fetch kept for people when it
 * has ended.
 */

import type { InstallState } from '../domain/install-state.ts';
import type { News } from '../domain/news.ts';
import { openLastTransfer, type Progress } from './last-transfer.ts';

const REPORTED_MS = 5_000;
const SHOWN_MS = 500;

export const openFetchProgress = async (dataDir: string, news: News) => {
  const last = await openLastTransfer(dataDir);
  let progress: Progress | null = null;
  const report = everyMs(REPORTED_MS, () => news.emit('reported'));
  const show = everyMs(SHOWN_MS, () => news.emit('shown'));
  const made = (next: Progress): void => {
    progress = next;
    report();
    show();
  };
  news.on('installed', (bytesDone, bytesTotal) =>
    made({ bytesDone, bytesTotal, bytesFetched: progress?.bytesFetched ?? 0 }),
  );
  return {
    now: () => progress,
    made,
    stateChanged: async (next: InstallState, previous: InstallState): Promise<void> => {
      if (previous.state === 'fetching' && progress !== null) await last.ended(progress);
      if (next.state === 'idle') progress = null;
    },
    /** Of the newest fetch that has ended. */
    attributes: last.attributes,
  };
};

/** Calls at most once in so many milliseconds; what is left out is made up for by the next. */
const everyMs = (ms: number, call: () => void): (() => void) => {
  let last = Number.NEGATIVE_INFINITY;
  return () => {
    if (performance.now() - last < ms) return;
    last = performance.now();
    call();
  };
};

/** How `serve` and `agent` end: on a signal, or when the program that started them is gone. */

import { rmSync } from 'node:fs';
import { constants } from 'node:os';

/** A Ctrl-C under npm comes twice: from the terminal, and from npm, which passes its own on. */
const SAME_SIGNAL_MS = 1000;

/**
 * Aborted at the first SIGINT, SIGTERM or SIGHUP; one more, later, ends the process at once. A program that started
 * this one with an IPC channel (`fork`) and is gone ends it too, so that nothing outlives the demo or a test.
 */
export const untilStopped = (): AbortSignal => {
  const controller = new AbortController();
  let stoppedAt = 0;
  const stop = (signal: NodeJS.Signals): void => {
    if (controller.signal.aborted && performance.now() - stoppedAt > SAME_SIGNAL_MS) process.exit(130);
    if (controller.signal.aborted) return;
    stoppedAt = performance.now();
    controller.abort(signal);
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, stop);
  if (process.channel !== undefined) {
    process.on('disconnect', () => controller.abort('SIGTERM'));
    process.channel.unref();
  }
  return controller.signal;
};

/**
 * Work that a signal may end in the middle: the files that it has named so far go first, and the exit code says which
 * signal it was.
 */
export const withoutLeftovers = async <T>(work: (temporary: string[]) => Promise<T>): Promise<T> => {
  const temporary: string[] = [];
  const stop = (signal: NodeJS.Signals): void => {
    for (const file of temporary) rmSync(file, { force: true });
    process.exit(128 + constants.signals[signal]);
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) process.on(signal, stop);
  try {
    return await work(temporary);
  } finally {
    for (const signal of signals) process.off(signal, stop);
  }
};

/** Tells a program that started this one with an IPC channel; otherwise nothing. */
export const tellParent = (message: object): void => {
  if (process.send !== undefined && process.connected) process.send(message);
};

/** How `serve` and `agent` end: on a signal, or when the program that started them is gone. */

/** A Ctrl-C under npm comes twice: from the terminal, and from npm, which passes its own on. */
const SAME_SIGNAL_MS = 1000;

/**
 * Aborted at the first SIGINT, SIGTERM or SIGHUP; one more, later, ends the process at once. A program that started this
 * one with an IPC channel (`fork`) and is gone ends it too, so that nothing outlives the demo or a test.
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

/** Tells a program that started this one with an IPC channel; otherwise nothing. */
export const tellParent = (message: object): void => {
  if (process.send !== undefined && process.connected) process.send(message);
};

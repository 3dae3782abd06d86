/** How `serve` and `agent` end: on a signal, or when the program that started them is gone. */

/**
 * Aborted at the first SIGINT, SIGTERM or SIGHUP; the second one ends the process at once. A program that started this
 * one with an IPC channel (`fork`) and is gone ends it too, so that nothing outlives the demo or a test.
 */
export const untilStopped = (): AbortSignal => {
  const controller = new AbortController();
  const stop = (signal: NodeJS.Signals): void => {
    if (controller.signal.aborted) process.exit(130);
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

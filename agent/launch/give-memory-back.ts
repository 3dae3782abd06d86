/**
 * What the start and each install leave on Node's heap goes back to the system: it would stay for as long as nothing
 * else needs it.
 */

const FIRST_MS = 2_000;
const EVERY_MS = 600_000;

/**
 * Does nothing without Node's `--expose-gc` (`NODE_FLAGS`). Takes some tens of milliseconds each time, until `signal`
 * is aborted.
 */
export const giveMemoryBack = (signal: AbortSignal): void => {
  // The last resort of V8 also moves together what is left.
  const give = (): void => globalThis.gc?.({ type: 'major', flavor: 'last-resort', execution: 'sync' });
  const first = setTimeout(give, FIRST_MS).unref();
  const later = setInterval(give, EVERY_MS).unref();
  signal.addEventListener('abort', () => {
    clearTimeout(first);
    clearInterval(later);
  });
};

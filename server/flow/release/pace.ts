/**
 * Who sends a body byte by byte holds a connection and a place among the uploads for hours: a body must keep a pace.
 */

/**
 * Over each `windowMs` spent waiting for the sender, at least this many bytes a second. The first window is its grace.
 */
export type Pace = { bytesPerSecondMin: number; windowMs: number };

/** Slower than any link that firmware is published over. A silence is cut by the HTTP server. */
export const UPLOAD_PACE: Pace = { bytesPerSecondMin: 10_000, windowMs: 30_000 };

export class TooSlow extends Error {}

/**
 * Passes a body on, and throws `TooSlow` when it falls behind. Only waiting for the sender counts: what this server
 * needs to write a part is not the sender's fault. `monotonic` is in milliseconds. Leaving early does not close the
 * source.
 */
export async function* inPace(
  body: AsyncIterable<Uint8Array>,
  pace: Pace,
  monotonic: () => number,
): AsyncGenerator<Uint8Array, void> {
  const source = body[Symbol.asyncIterator]();
  let [waitedMs, bytes] = [0, 0];
  for (;;) {
    const since = monotonic();
    const next = await source.next();
    if (next.done === true) return;
    waitedMs += monotonic() - since;
    bytes += next.value.length;
    if (waitedMs >= pace.windowMs) {
      const perSecond = Math.floor((bytes * 1000) / waitedMs);
      if (perSecond < pace.bytesPerSecondMin)
        throw new TooSlow(
          `the body came at ${perSecond} bytes a second over ${Math.round(waitedMs / 1000)} s; at least ${pace.bytesPerSecondMin} are needed`,
        );
      [waitedMs, bytes] = [0, 0];
    }
    yield next.value;
  }
}

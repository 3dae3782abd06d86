/** Holds back what is fetched to so many bytes a second: by reading slower, so that the sender slows down too. */
import { setTimeout as sleep } from 'node:timers/promises';
import { fullBucket, type Rate, take, waitMs } from '#shared/token-bucket.ts';
import type { HttpAnswer, HttpGet } from './request.ts';

export type Clock = { now(): number; sleep(ms: number, signal: AbortSignal): Promise<unknown> };
const REAL: Clock = {
  now: () => performance.now(),
  sleep: (ms, signal) => sleep(ms, undefined, { signal }).catch(() => undefined),
};

/** All downloads together keep to it. 0 bytes a second: no limit. */
export const limitBandwidth = (get: HttpGet, bytesPerSecond: number, clock: Clock = REAL): HttpGet => {
  if (bytesPerSecond === 0) return get;
  // A second's worth at once at most: enough for a piece from a socket, or for an index.
  const rate: Rate = { burst: bytesPerSecond, perSecond: bytesPerSecond };
  const bucket = fullBucket(rate, clock.now());
  return async (path, headers, signal) => {
    const answer = await get(path, headers, signal);
    return { ...answer, body: answer.body === null ? null : slowed(answer.body, signal) };
  };

  function slowed(body: NonNullable<HttpAnswer['body']>, signal: AbortSignal): HttpAnswer['body'] {
    async function* pieces(): AsyncGenerator<Uint8Array> {
      for await (const piece of body) {
        const debt = waitMs(take(bucket, rate, clock.now(), piece.length), rate);
        if (debt > 0) await clock.sleep(debt, signal);
        yield piece;
      }
    }
    return { [Symbol.asyncIterator]: pieces, cancel: () => body.cancel() };
  }
};

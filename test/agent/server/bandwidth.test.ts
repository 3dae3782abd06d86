import { array, assert, asyncProperty, integer } from 'fast-check';
import { expect, test } from 'vitest';
import { type Clock, limitBandwidth } from '#agent/server/bandwidth.ts';
import type { HttpGet } from '#agent/server/request.ts';

/** Time that passes only while someone sleeps. */
const virtualClock = (): Clock & { passed: () => number } => {
  let now = 0;
  return {
    now: () => now,
    passed: () => now,
    sleep: async (ms) => {
      now += ms;
    },
  };
};

const sending =
  (sizes: readonly number[]): HttpGet =>
  async () => ({
    status: 200,
    headers: { get: () => null },
    body: {
      async *[Symbol.asyncIterator]() {
        for (const size of sizes) yield new Uint8Array(size);
      },
      cancel: async () => undefined,
    },
  });

const read = async (get: HttpGet): Promise<number> => {
  const answer = await get('/o/1', {}, new AbortController().signal);
  let bytes = 0;
  for await (const piece of answer.body!) bytes += piece.length;
  return bytes;
};

test('over any length of time no more than a second ahead of the limit gets through, and nothing is lost', async () => {
  await assert(
    asyncProperty(
      array(integer({ min: 1, max: 65_536 }), { maxLength: 100 }),
      integer({ min: 4_096, max: 1_000_000 }),
      async (sizes, limit) => {
        const clock = virtualClock();
        const bytes = await read(limitBandwidth(sending(sizes), limit, clock));
        expect(bytes).toBe(sizes.reduce((sum, size) => sum + size, 0));
        const atLeastMs = ((bytes - limit) / limit) * 1000;
        expect(clock.passed()).toBeGreaterThanOrEqual(Math.floor(atLeastMs));
        // Each wait is rounded up to a millisecond.
        expect(clock.passed()).toBeLessThanOrEqual(Math.max(0, atLeastMs) + sizes.length + 1);
      },
    ),
  );
});

test('two downloads share one limit', async () => {
  const clock = virtualClock();
  const get = limitBandwidth(sending([50_000, 50_000]), 10_000, clock);
  await Promise.all([read(get), read(get)]);
  expect(clock.passed()).toBeGreaterThanOrEqual(19_000);
});

test('without a limit nothing is touched', () => {
  const get = sending([1]);
  expect(limitBandwidth(get, 0)).toBe(get);
});

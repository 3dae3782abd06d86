import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { backoffMs, jitteredMs } from '#agent/domain/backoff.ts';
import { clampedSpread, spreadBackoff, turnAt } from '#agent/domain/spread.ts';
import { spreadFor } from '#server/flow/device/spread.ts';

const FLEET = 10_000;
const CONNECTS_PER_SECOND = 500;
const BACKOFF = { firstMs: 1_000, maxMs: 300_000 };

/** The same numbers for the same seed. */
const randomOf = (seed: number) => (): number => {
  seed = (seed * 1_664_525 + 1_013_904_223) % 2 ** 32;
  return seed / 2 ** 32;
};
const busiestSecond = (times: readonly number[]): number => {
  const seconds = new Map<number, number>();
  for (const time of times) seconds.set(Math.floor(time / 1_000), (seconds.get(Math.floor(time / 1_000)) ?? 0) + 1);
  return Math.max(...seconds.values());
};

/** When each device comes, of a fleet that lost its server at one moment: every attempt, and the one that succeeds. */
const comeBack = (awayMs: number, spreadMs: number, seed: number): { attempts: number[]; arrivals: number[] } => {
  const random = randomOf(seed);
  const [attempts, arrivals]: number[][] = [[], []];
  for (let device = 0; device < FLEET; device += 1) {
    let at = 0;
    for (let attempt = 0; ; attempt += 1) {
      at += backoffMs(attempt, spreadBackoff(BACKOFF, spreadMs), random());
      attempts!.push(at);
      if (at >= awayMs) break;
    }
    arrivals!.push(at);
  }
  return { attempts: attempts!, arrivals: arrivals! };
};

test('ten thousand devices that lost their server at one moment come back over what it can take, in every round', () => {
  const spreadMs = clampedSpread(spreadFor(FLEET, CONNECTS_PER_SECOND));
  expect(spreadMs).toBe(20_000);
  for (const awayMs of [0, 3_000, 20_000, 90_000, 900_000]) {
    const { attempts, arrivals } = comeBack(awayMs, spreadMs, awayMs + 7);
    expect([awayMs, busiestSecond(attempts) < 2 * CONNECTS_PER_SECOND]).toEqual([awayMs, true]);
    expect([awayMs, busiestSecond(arrivals) < 2 * CONNECTS_PER_SECOND]).toEqual([awayMs, true]);
  }
});

test('no moment is the one at which many come: the least wait neither', () => {
  const random = randomOf(11);
  for (const attempt of [0, 1, 3, 9]) {
    const backoff = spreadBackoff(BACKOFF, 20_000);
    const waits = Array.from({ length: FLEET }, () => backoffMs(attempt, backoff, random()));
    const ceilingMs = Math.min(backoff.maxMs, backoff.firstMs * 2 ** attempt);
    const mean = FLEET / (ceilingMs / 1_000);
    expect(Math.min(...waits)).toBeGreaterThanOrEqual(2_000);
    expect(Math.max(...waits)).toBeLessThanOrEqual(ceilingMs);
    expect(busiestSecond(waits)).toBeLessThan(3 * mean + 20);
  }
});

test('polls and heartbeats of a fleet that began at one moment do not keep step', () => {
  const random = randomOf(3);
  const periodMs = 60_000;
  const times: number[] = [];
  for (let device = 0; device < FLEET; device += 1) {
    let at = 0;
    for (let round = 0; round < 10; round += 1) times.push((at += jitteredMs(periodMs, random())));
  }
  expect(busiestSecond(times)).toBeLessThan(4 * (FLEET / (periodMs / 1_000)));
});

test('a small fleet comes back in a second, as before', () => {
  expect(spreadFor(3, CONNECTS_PER_SECOND)).toBeUndefined();
  expect(spreadFor(500, CONNECTS_PER_SECOND)).toBeUndefined();
  expect(spreadFor(501, CONNECTS_PER_SECOND)).toBe(2_000);
  expect(spreadBackoff(BACKOFF, clampedSpread(undefined))).toEqual(BACKOFF);
});

test('whatever the server says, a device waits ten minutes at most', () => {
  for (const said of [0, -1, Number.NaN, 1e12, 600_001, Number.POSITIVE_INFINITY]) {
    const spreadMs = clampedSpread(said);
    expect(spreadMs).toBeGreaterThanOrEqual(0);
    expect(spreadMs).toBeLessThanOrEqual(600_000);
  }
  expect(spreadFor(10_000_000, 1)).toBe(600_000);
});

const HOUR = 3_600_000;
const WINDOW = { opens: 10 * HOUR, closes: 12 * HOUR };

test('a fleet that waits for a window begins in turn, each device at the same time after a restart', () => {
  const turns = Array.from({ length: FLEET }, (_, device) =>
    turnAt({ windows: [WINDOW] }, WINDOW.opens, { device: `gw-${device}`, since: 9 * HOUR, spreadMs: 20_000 }),
  );
  expect(busiestSecond(turns)).toBeLessThan(4 * (FLEET / 200));
  expect(Math.min(...turns)).toBeGreaterThanOrEqual(WINDOW.opens);
  expect(Math.max(...turns)).toBeLessThan(WINDOW.opens + 200_000);
  const again = { device: 'gw-5', since: 9 * HOUR, spreadMs: 20_000 };
  expect(turnAt({ windows: [WINDOW] }, WINDOW.opens + 5, again)).toBe(Math.max(turns[5]!, WINDOW.opens + 5));
});

test('a turn never lies behind the first half of the window, and a named time of activation is kept by all', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 60_000, max: 10 * HOUR }),
      fc.nat(600_000),
      fc.string({ maxLength: 20 }),
      fc.nat(20 * HOUR),
      (lengthMs, spreadMs, device, at) => {
        const window = { opens: 5 * HOUR, closes: 5 * HOUR + lengthMs };
        const may = Math.max(window.opens, Math.min(at, window.closes - 1));
        const turn = turnAt({ windows: [window] }, may, { device, since: 0, spreadMs });
        expect(turn).toBeGreaterThanOrEqual(may);
        expect(turn).toBeLessThanOrEqual(Math.max(may, window.opens + lengthMs / 2));
        const late = { device, since: window.opens, spreadMs };
        expect(turnAt({ windows: [window] }, may, late)).toBe(may);
        const named = { windows: [window], activateAt: may };
        expect(turnAt(named, may, { device, since: 0, spreadMs })).toBe(may);
        expect(turnAt({ activateAt: may }, may, { device, since: 0, spreadMs })).toBe(may);
      },
    ),
  );
});

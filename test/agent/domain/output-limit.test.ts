import { expect, test } from 'vitest';
import { admit, openGate, shutMs } from '#agent/domain/output-limit.ts';

const LIMIT = { bytesPerSecond: 1_000, burstBytes: 16_000 };
const DAY_S = 86_400;

/** What of so many bytes, each this long after the last, is written. */
const writtenOf = (limit: typeof LIMIT, lines: number, bytes: number, gapMs: number) => {
  const gate = openGate(limit, 0);
  let [written, turns, was] = [0, 0, true];
  for (let line = 0; line < lines; line += 1) {
    const passed = admit(gate, limit, bytes, line * gapMs);
    if (passed) written += bytes;
    if (passed !== was) turns += 1;
    was = passed;
  }
  return { written, turns, leftOut: gate.leftOut };
};

test('a burst passes whole, and what comes slowly always does', () => {
  expect(writtenOf(LIMIT, 160, 100, 0)).toEqual({ written: 16_000, turns: 0, leftOut: 0 });
  expect(writtenOf(LIMIT, 100_000, 100, 100)).toMatchObject({ leftOut: 0 });
});

test('a flood comes to the rate and one burst, whatever its lines are, and every byte is counted', () => {
  for (const [bytes, gapMs] of [
    [100, 1],
    [64 * 1024, 655],
    [1, 0.01],
  ] as const) {
    const lines = 1_000_000;
    const { written, leftOut } = writtenOf(LIMIT, lines, bytes, gapMs);
    const seconds = (lines * gapMs) / 1_000;
    expect(written).toBeLessThan(LIMIT.burstBytes + LIMIT.bytesPerSecond * seconds + 2 * 64 * 1024);
    expect(written).toBeGreaterThan(Math.min(bytes * lines, LIMIT.bytesPerSecond * seconds) / 2);
    expect(written + leftOut).toBe(bytes * lines);
  }
});

test('a shut gate stays so for a while: notes about it are few', () => {
  // 1,000 lines a second for a quarter of an hour.
  const { turns } = writtenOf(LIMIT, 900_000, 100, 1);
  expect(turns).toBeLessThanOrEqual(2 * 900);
  expect(shutMs(LIMIT)).toBe(1_000);
});

test('the default writes at most 360 MB a day; 100 KB a second would be 8.6 GB', () => {
  const { written } = writtenOf({ bytesPerSecond: 4_096, burstBytes: 1024 ** 2 }, 10 * DAY_S, 10_000, 100);
  expect(written).toBeLessThan(360e6);
  expect(written).toBeGreaterThan(340e6);
});

test('no limit lets everything pass', () => {
  expect(writtenOf({ bytesPerSecond: 0, burstBytes: 4_096 }, 1_000, 100_000, 0)).toMatchObject({ leftOut: 0 });
});

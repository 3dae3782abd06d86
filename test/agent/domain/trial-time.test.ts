import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { trialUsedMs } from '#agent/domain/trial-time.ts';

const YEARS_MS = 100 * 365 * 86_400_000;

/**
 * A machine: what really passes, how much of that it was up in this boot, and a clock that shows what it was set to.
 */
type Moment = { real: number; up: number; boot: number; wall: number };
const fresh: Moment = { real: 0, up: 0, boot: 0, wall: 1_000 };
const presentOf = ({ up, boot, wall }: Moment) => ({ bootId: `boot-${boot}`, uptimeMs: up, wall });

const ms = fc.nat(1_000_000);
const anyStep: fc.Arbitrary<(before: Moment) => Moment> = fc.oneof(
  ms.map((passed) => (was: Moment) => ({
    ...was,
    real: was.real + passed,
    up: was.up + passed,
    wall: was.wall + passed,
  })),
  fc.integer({ min: 0, max: YEARS_MS }).map((wall) => (was: Moment) => ({ ...was, wall })),
  // Off for a while, and perhaps without a battery for the clock.
  fc.tuple(ms, fc.boolean()).map(([off, keeps]) => (was: Moment) => ({
    real: was.real + off,
    up: 0,
    boot: was.boot + 1,
    wall: keeps ? was.wall + off : 0,
  })),
);
const steps = fc.array(anyStep, { maxLength: 20 });
const after = (from: Moment, history: ((before: Moment) => Moment)[]): Moment =>
  history.reduce((moment, step) => step(moment), from);

test('a trial has used no more than has passed since it began, and no less than this boot of the machine gave it, whatever the clock is set to', () => {
  fc.assert(
    fc.property(steps, steps, (before, since) => {
      const start = after(fresh, before);
      const { wall, ...began } = presentOf(start);
      const now = after(start, since);
      const used = trialUsedMs({ since: wall, began }, presentOf(now));
      expect(used).toBeLessThanOrEqual(now.real - start.real);
      expect(used).toBe(now.boot === start.boot ? now.real - start.real : now.up);
    }),
  );
});

test('a trial that an agent recorded by the clock alone has used what the clock says, but no more than the machine is up', () => {
  const now = { bootId: 'boot-1', uptimeMs: 60_000 };
  expect(trialUsedMs({ since: 1_000 }, { ...now, wall: 31_000 })).toBe(30_000);
  expect(trialUsedMs({ since: 1_000 }, { ...now, wall: YEARS_MS })).toBe(60_000);
  expect(trialUsedMs({ since: YEARS_MS }, { ...now, wall: 1_000 })).toBe(0);
});

test('where one boot of the machine is not told from the next, an uptime that went back tells it', () => {
  const began = { bootId: 'unknown', uptimeMs: 3_000_000 };
  expect(trialUsedMs({ since: 0, began }, { bootId: 'unknown', uptimeMs: 60_000, wall: 0 })).toBe(60_000);
});

import { expect, test } from 'vitest';
import { openSteadyClock } from '#server/steady-clock.ts';

const rig = () => {
  const at = { wall: 1_800_000_000_000, monotonic: 7 };
  const clock = openSteadyClock(
    () => at.wall,
    () => at.monotonic,
  );
  const pass = (ms: number): void => {
    at.wall += ms;
    at.monotonic += ms;
  };
  return { at, clock, pass };
};

test('a clock that is set is followed only when told, and by exactly as much', () => {
  for (const step of [-31_536_000_000, -3_600_000, 3_600_000, 31_536_000_000]) {
    const { at, clock, pass } = rig();
    const before = clock.now();
    at.wall += step;
    pass(5_000);
    expect(clock.now()).toBe(before + 5_000);
    expect(clock.stepMs()).toBe(step);
    clock.follow(step);
    pass(1_000);
    expect(clock.now()).toBe(at.wall);
    expect(clock.stepMs()).toBe(0);
  }
});

test('a clock that is kept right is followed at once', () => {
  const { at, clock, pass } = rig();
  for (let second = 0; second < 100; second += 1) {
    pass(1_000);
    at.wall += 500;
    expect(clock.stepMs()).toBe(0);
  }
  expect(clock.now()).toBe(at.wall);
});

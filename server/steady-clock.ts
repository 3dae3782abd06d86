/**
 * The server's time: the wall clock, which is followed only on purpose when it was set, so that what counts from a time
 * can move first.
 */
import { STEP_MS_MIN } from './domain/rollout/clock-step.ts';

export type SteadyClock = {
  now: () => number;
  /** By how much the clock was set, and is not followed yet; 0: it was not. */
  stepMs(): number;
  /** From now on it is followed. */
  follow(stepMs: number): void;
};

export const openSteadyClock = (
  wall: () => number = Date.now,
  monotonic: () => number = () => performance.now(),
): SteadyClock => {
  const begin = (): { wall: number; monotonic: number } => ({ wall: wall(), monotonic: monotonic() });
  let from = begin();
  const now = (): number => Math.round(from.wall + monotonic() - from.monotonic);
  return {
    now,
    stepMs: () => {
      const step = wall() - now();
      if (Math.abs(step) >= STEP_MS_MIN) return step;
      // A clock that is kept right goes a little slower or faster.
      from = begin();
      return 0;
    },
    follow: (step) => {
      from = { ...from, wall: from.wall + step };
    },
  };
};

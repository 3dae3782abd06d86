/**
 * What it means that this machine's clock was set: how long something has lasted is not changed by it. What a rollout
 * counts from moves along; times that people named (a start, an end, an activation, a window) are the clock's, and
 * stay.
 */

import type { Millis } from '#shared/ids.ts';
import type { Uptime } from '#shared/machine-uptime.ts';
import type { RolloutState } from './rollout.ts';

/** By less a clock is kept right all the time. */
export const STEP_MS_MIN = 10_000;

export const moved = (at: Millis, byMs: number): Millis => Math.max(0, at + byMs);

export const moveProgress = (progress: RolloutState, byMs: number): RolloutState => {
  if (progress.state !== 'running') return progress;
  const { waveSince, gateSince, starts } = progress;
  return {
    ...progress,
    waveSince: moved(waveSince, byMs),
    gateSince: gateSince === null ? null : moved(gateSince, byMs),
    ...(starts === undefined ? {} : { starts: { ...starts, since: moved(starts.since, byMs) } }),
  };
};

/** A moment by both clocks; of an earlier version, or another system, only by the one that may be set. */
export type Noted = { wall: Millis; uptime?: Uptime | undefined };

/**
 * By how much the clock was set between two moments, as far as that is known: in one boot exactly, and after it that it
 * went back at all.
 */
export const stepBetween = (then: Noted, now: Noted): number => {
  const wallMs = now.wall - then.wall;
  const [before, after] = [then.uptime, now.uptime];
  const isSameBoot = before !== undefined && before.bootId === after?.bootId && before.uptimeMs <= after.uptimeMs;
  const stepMs = isSameBoot ? wallMs - (after.uptimeMs - before.uptimeMs) : Math.min(0, wallMs);
  return Math.abs(stepMs) < STEP_MS_MIN ? 0 : stepMs;
};

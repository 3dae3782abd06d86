/**
 * What a whole fleet would do at one moment it does over a width that the server sets by the fleet's size. The width is
 * not signed: it is bounded here, and moves nothing out of its window.
 */
import type { Timing } from '#shared/windows.ts';
import type { Backoff } from './backoff.ts';

export const SPREAD_MS_MAX = 600_000;
/** To begin an install costs the server so many times what a connection does. */
const INSTALLS_PER_CONNECTION = 10;

export const clampedSpread = (ms: number | undefined): number =>
  ms === undefined || !(ms > 0) ? 0 : Math.min(Math.round(ms), SPREAD_MS_MAX);

/** Between attempts to connect: the first wait after a loss may take the whole width. */
export const spreadBackoff = ({ firstMs, maxMs }: Backoff, spreadMs: number): Backoff => ({
  firstMs: Math.max(firstMs, spreadMs),
  maxMs: Math.max(maxMs, spreadMs),
});

/** Whose turn it is within a window: from 0 to 1, the same after a restart, and another one in the next window. */
const shareOf = (device: string, opens: number): number => {
  // FNV-1a, and mixed so that names that differ in their last digit are far apart.
  let hash = 0x811c9dc5;
  for (const character of `${device}/${opens}`) hash = Math.imul(hash ^ character.codePointAt(0)!, 0x01000193);
  for (const multiplier of [0x85ebca6b, 0xc2b2ae35]) hash = Math.imul(hash ^ (hash >>> 15), multiplier);
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
};

/**
 * When a device goes on that may do so at `at`. One that has waited, since `since`, for a window to open takes its
 * turn: in the first half of the window at the latest. One that comes later does not wait, and a time of activation
 * that was named is kept by all.
 */
export const turnAt = (
  timing: Timing,
  at: number,
  { device, since, spreadMs }: { device: string; since: number; spreadMs: number },
): number => {
  const span = timing.windows?.find(({ opens, closes }) => opens <= at && at < closes);
  const named = typeof timing.activateAt === 'number' && span !== undefined && timing.activateAt >= span.opens;
  if (span === undefined || named || since >= span.opens) return at;
  const widthMs = Math.min(INSTALLS_PER_CONNECTION * spreadMs, (span.closes - span.opens) / 2);
  return Math.max(at, Math.floor(span.opens + shareOf(device, span.opens) * widthMs));
};

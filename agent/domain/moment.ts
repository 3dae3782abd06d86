/**
 * How long ago something was, also after restarts. In the boot in which it was: by the machine's uptime, which no one
 * sets. After a reboot the clock says it, which may have been set meanwhile; what this boot has lasted is certain.
 */
import { z } from 'zod';
import { Uptime } from '#shared/machine-uptime.ts';

export const Moment = Uptime.extend({ wall: z.number().int() });
export type Moment = z.infer<typeof Moment>;

/** Of a moment that an earlier agent recorded, which knew only the clock. */
export const momentOf = (wall: number): Moment => ({ wall, bootId: '', uptimeMs: 0 });

const isSameBoot = (then: Uptime, present: Uptime): boolean =>
  then.bootId === present.bootId && then.uptimeMs <= present.uptimeMs;

export const passedMs = (then: Moment, present: Moment): number =>
  isSameBoot(then, present)
    ? present.uptimeMs - then.uptimeMs
    : Math.max(then.bootId === '' ? 0 : present.uptimeMs, present.wall - then.wall);

/** A clock that was set by less than this is not worth a write. */
const SET_MS_MIN = 60_000;

/**
 * The same moment by the present clock, so that a clock that was set, and a reboot after that, do not add up;
 * undefined: it is.
 */
export const byPresentClock = (then: Moment, present: Moment): Moment | undefined => {
  if (then.bootId === '') {
    const ms = Math.max(0, present.wall - then.wall);
    return { ...present, wall: present.wall - ms, uptimeMs: Math.max(0, present.uptimeMs - ms) };
  }
  if (!isSameBoot(then, present)) return undefined;
  const wall = present.wall - passedMs(then, present);
  return Math.abs(wall - then.wall) < SET_MS_MIN ? undefined : { ...then, wall };
};

/** Maintenance windows: as a policy names them, and as the plain spans of time that devices are told. */
import { z } from 'zod';
import { DurationMs, Millis } from './ids.ts';

/** The attribute by which a device reports its own time zone, an IANA name. */
export const TIME_ZONE_ATTRIBUTE = 'timezone';

/**
 * Opens by a cron expression and stays open for so long (elapsed time). Fields as cron has them: lists, ranges, steps,
 * names (`MON-FRI`, `JAN`), Sunday as 0 or 7; with both a day of the month and a weekday, either is enough. The minute
 * is one number, so that a window opens once an hour at most: a rollout may have several windows.
 */
export const MaintenanceWindow = z.strictObject({
  /** Minute, hour, day of month, month, day of week: `0 2 * * 1-5`. */
  cron: z
    .string()
    .trim()
    .max(128)
    .regex(
      /^[0-5]?\d( [\d*,/A-Za-z-]+){4}$/,
      'must be five fields (minute hour day month weekday) as in "0 2 * * 1-5", the minute one number: for several openings an hour give several windows',
    )
    .meta({ examples: ['0 2 * * 1-5'] }),
  durationMs: DurationMs.min(60_000).max(7 * 86_400_000),
  /** Of devices that report none, or of all when `ofDevice` is false. */
  timeZone: z.string().min(1).max(64).default('UTC'),
  /** In each device's own time zone, where it reports one. */
  ofDevice: z.boolean().default(true),
});
export type MaintenanceWindow = z.infer<typeof MaintenanceWindow>;

/** One time that a window is open, `closes` excluded. */
export const OpenSpan = z.object({ opens: Millis, closes: Millis });
export type OpenSpan = z.infer<typeof OpenSpan>;
/** A device knows so many openings ahead; before they run out it is told more. */
export const SPANS_TOLD_MAX = 8;

/**
 * The earliest time from `from` on that lies in a span; undefined when none is known. No spans at all: any time is
 * good.
 */
export const firstOpenAt = (spans: readonly OpenSpan[] | undefined, from: number): number | undefined => {
  if (spans === undefined) return from;
  const starts = spans.filter(({ closes }) => closes > from).map(({ opens }) => Math.max(opens, from));
  return starts.length === 0 ? undefined : Math.min(...starts);
};

/** What an instruction says about time. Absent `windows`: any. Absent `activateAt`: at once; null: only when told. */
export type Timing = { windows?: OpenSpan[] | undefined; activateAt?: number | null | undefined };

/** From when on, at `now`, a device may begin to install. Undefined: not until it is told more. */
export const mayInstallAt = (timing: Timing, now: number): number | undefined => firstOpenAt(timing.windows, now);
/** The same for activating what is installed. */
export const mayActivateAt = (timing: Timing, now: number): number | undefined =>
  timing.activateAt === null ? undefined : firstOpenAt(timing.windows, Math.max(now, timing.activateAt ?? now));

/**
 * When maintenance windows are open: the `cron` package says which wall times, and the zone's clocks when these are, so
 * that the same question always has the same answer. The domain and devices know only the spans that come out.
 *
 * Where clocks go forward, a window that would open in the hour that is left out opens when that hour would have ended.
 * Where they go back, it opens once, at the first of the two times. How long it is open is elapsed time, whatever
 * clocks do.
 */
import { CronTime } from 'cron';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { type MaintenanceWindow, type OpenSpan, SPANS_TOLD_MAX } from '#shared/windows.ts';

const DAY_MS = 86_400_000;
/** A window opens once an hour at most and lasts a week at most: no question needs more openings than these. */
const OPENINGS_MAX = 256;
const CACHED_MAX = 2_000;

/** Spans by window and zone, and until when the answer holds: the end of the first. */
const cache = new Map<string, { from: number; until: number; spans: OpenSpan[] }>();

/** Asked with every report of a device, and a formatter takes a tenth of a millisecond to make. */
const zones = new Map<string, boolean>();
export const isTimeZone = (zone: string): boolean => {
  const known = zones.get(zone);
  if (known !== undefined) return known;
  if (zones.size >= CACHED_MAX) zones.clear();
  const exists = canFormat(zone);
  zones.set(zone, exists);
  return exists;
};
const canFormat = (zone: string): boolean => {
  try {
    return new Intl.DateTimeFormat('en', { timeZone: zone }).resolvedOptions().timeZone !== '';
  } catch {
    return false;
  }
};

/** Refusal: `invalid-request`, with what is wrong. An expression that never comes true is refused too. */
export const checkWindows = (windows: readonly MaintenanceWindow[], now: number): Result<void> => {
  for (const window of windows) {
    if (!isTimeZone(window.timeZone))
      return refuse('invalid-request', `there is no time zone ${window.timeZone}; use names such as Europe/Paris`);
    try {
      spansOf(window, window.timeZone, now);
    } catch (error) {
      const why = error instanceof Error ? error.message.split('\n')[0] : String(error);
      return refuse('invalid-request', `the cron expression "${window.cron}" is of no use: ${why}`);
    }
  }
  return accept(undefined);
};

/**
 * The next spans in which any of the windows is open, the present one first, overlapping ones joined; undefined without
 * windows: any time is good. `zone` is what the device reports; one that does not exist counts as none.
 */
export const spansAt = (
  windows: readonly MaintenanceWindow[],
  zone: string | undefined,
  now: number,
): OpenSpan[] | undefined => {
  if (windows.length === 0) return undefined;
  const own = zone !== undefined && isTimeZone(zone) ? zone : undefined;
  const all = windows.flatMap((window) =>
    spansOf(window, window.ofDevice ? (own ?? window.timeZone) : window.timeZone, now),
  );
  return joined(all)
    .filter(({ closes }) => closes > now)
    .slice(0, SPANS_TOLD_MAX);
};

const joined = (spans: OpenSpan[]): OpenSpan[] => {
  const out: OpenSpan[] = [];
  for (const span of [...spans].sort((a, b) => a.opens - b.opens)) {
    const last = out.at(-1);
    if (last !== undefined && span.opens <= last.closes) last.closes = Math.max(last.closes, span.closes);
    else out.push({ ...span });
  }
  return out;
};

const spansOf = (window: MaintenanceWindow, zone: string, now: number): OpenSpan[] => {
  const key = JSON.stringify([window.cron, window.durationMs, zone]);
  const known = cache.get(key);
  if (known !== undefined && known.from <= now && now < known.until) return known.spans;
  const spans = reckon(window, zone, now);
  if (cache.size >= CACHED_MAX) cache.clear();
  cache.set(key, { from: now, until: spans[0]!.closes, spans });
  return spans;
};

/**
 * The next wall time that the expression names. It is asked in UTC, where clocks never change: across a change the
 * package errs by an hour.
 */
const nextAfter = (time: CronTime, wall: number): number | undefined => {
  try {
    return time.getNextDateFrom(new Date(wall), 'UTC').toMillis();
  } catch {
    return undefined; // never, or not for years
  }
};

const reckon = ({ cron, durationMs }: MaintenanceWindow, zone: string, now: number): OpenSpan[] => {
  const time = new CronTime(cron, 'UTC');
  const clock = clockOf(zone);
  const spans: OpenSpan[] = [];
  let wall = now - durationMs + clock(now - durationMs) - CHANGE_MS_MAX;
  for (let step = 0; step < OPENINGS_MAX && spans.length < SPANS_TOLD_MAX; step += 1) {
    const next = nextAfter(time, wall);
    // The package looks ahead for some years only: of what is rare, the openings until then do.
    if (next === undefined && spans.length > 0) break;
    if (next === undefined) throw new Error('it never comes true');
    const opens = momentOf(next, clock);
    // Two wall times of an hour that is left out are the same moment.
    if (opens + durationMs > now && opens !== spans.at(-1)?.opens) spans.push({ opens, closes: opens + durationMs });
    wall = next;
  }
  return spans;
};

/** How far clocks of a zone are ahead of UTC at a moment, in milliseconds. */
type Clock = (at: number) => number;
/** Clocks change by less than this. */
const CHANGE_MS_MAX = 3 * 3_600_000;

const clockOf = (timeZone: string): Clock => {
  const numeric = 'numeric' as const;
  const fields = { year: numeric, month: numeric, day: numeric, hour: numeric, minute: numeric, second: numeric };
  const format = new Intl.DateTimeFormat('en-US', { timeZone, hourCycle: 'h23', ...fields });
  return (at) => {
    const part = new Map(format.formatToParts(at).map(({ type, value }) => [type, Number(value)]));
    const of = (type: keyof typeof fields): number => part.get(type) ?? 0;
    const shown = Date.UTC(of('year'), of('month') - 1, of('day'), of('hour'), of('minute'), of('second'));
    return shown - Math.floor(at / 1_000) * 1_000;
  };
};

/** The moment at which clocks show this wall time: of two the first; of none, when they had gone forward. */
const momentOf = (wall: number, clock: Clock): number => {
  const [before, after] = [clock(wall - DAY_MS), clock(wall + DAY_MS)];
  for (const offset of [before, after]) if (clock(wall - offset) === offset) return wall - offset;
  let [early, late] = [wall - after, wall - before];
  while (late - early > 1) {
    const middle = Math.floor((early + late) / 2);
    if (clock(middle) === before) early = middle;
    else late = middle;
  }
  return late;
};

/**
 * When maintenance windows are open: the `cron` package, asked from fixed points, so that the same question always has the same
 * answer. The domain and devices know only the spans that come out.
 *
 * Where clocks go forward, a window that would open in the hour that is left out opens when that hour would have ended.
 * (Lord Howe Island, whose clocks go by half an hour, may see one open half an hour early that night: the package's mistake.)
 * Where they go back, it opens once, at the first of the two times. How long it is open is elapsed time, whatever clocks do.
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
const isTimeZone = (zone: string): boolean => {
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

const nextAfter = (time: CronTime, at: number, zone: string): number | undefined => {
  try {
    return time.getNextDateFrom(new Date(at), zone).toMillis();
  } catch {
    return undefined; // never, or not for years
  }
};

const reckon = ({ cron, durationMs }: MaintenanceWindow, zone: string, now: number): OpenSpan[] => {
  const time = new CronTime(cron, zone);
  const spans: OpenSpan[] = [];
  // From a midnight (UTC) before: asked from within the hour that comes twice, the package would name its second time.
  let at = Math.floor((now - durationMs) / DAY_MS) * DAY_MS - 1_000;
  for (let step = 0; step < OPENINGS_MAX && spans.length < SPANS_TOLD_MAX; step += 1) {
    const opens = nextAfter(time, at, zone);
    // The package looks ahead for some years only: of what is rare, the openings until then do.
    if (opens === undefined && spans.length > 0) break;
    if (opens === undefined) throw new Error('it never comes true');
    if (opens + durationMs > now) spans.push({ opens, closes: opens + durationMs });
    at = opens;
  }
  return spans;
};

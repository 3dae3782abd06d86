/**
 * When maintenance windows are open, reckoned without the server's calendar: by looking back, minute by minute, for the
 * moment at which one opened.
 */
import type { RolloutPlan } from '#server/domain/rollout/rollout.ts';
import type { Id } from '#shared/ids.ts';
import type { MaintenanceWindow } from '#shared/windows.ts';

const MINUTE_MS = 60_000;
const HOUR_MS = 3_600_000;

const formats = new Map<string, Intl.DateTimeFormat>();
const clockIn = (zone: string, at: number): { hour: number; minute: number } => {
  const format =
    formats.get(zone) ??
    new Intl.DateTimeFormat('en', { timeZone: zone, hour: 'numeric', minute: 'numeric', hourCycle: 'h23' });
  formats.set(zone, format);
  const [hour, minute] = format.format(at).split(':').map(Number);
  return { hour: hour!, minute: minute! };
};

/** Only what policies.ts writes: one minute, all or every second hour. */
const opensAt = (cron: string, zone: string, at: number): boolean => {
  const [minute, hours] = cron.split(' ');
  const clock = clockIn(zone, at);
  const before = clockIn(zone, at - HOUR_MS);
  // Where clocks change it may open at another minute: docs/states.md says which,
  // test/server/flow/time/calendar.test.ts holds it.
  if ((before.hour * 60 + before.minute + 60) % 1440 !== clock.hour * 60 + clock.minute) return true;
  return clock.minute === Number(minute) && (hours === '*' || clock.hour % 2 === 0);
};

export const windowsOf = ({ cohorts, policy }: RolloutPlan, cohort: Id): readonly MaintenanceWindow[] =>
  cohorts.find((one) => one.cohort === cohort)?.windows ?? policy.windows;

/**
 * Whether one of them is open, or was within the `graceMs` before. Before the server has heard of its zone a device has
 * the window's.
 */
export const isOpen = (windows: readonly MaintenanceWindow[], zone: string, at: number, graceMs = 0): boolean =>
  windows.length === 0 ||
  windows.some(({ cron, durationMs, timeZone, ofDevice }) => {
    const zones = ofDevice ? [zone, timeZone] : [timeZone];
    const present = Math.floor(at / MINUTE_MS) * MINUTE_MS;
    for (let back = 0; present - back > at - durationMs - graceMs - MINUTE_MS; back += MINUTE_MS) {
      const opened = present - back;
      const isStillOpen = at < opened + durationMs + graceMs;
      if (isStillOpen && zones.some((one) => opensAt(cron, one, opened))) return true;
    }
    return false;
  });

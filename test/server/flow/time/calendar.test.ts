import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { checkWindows, spansAt } from '#server/flow/time/calendar.ts';
import { firstOpenAt, MaintenanceWindow, mayActivateAt, mayInstallAt } from '#shared/windows.ts';

const HOUR = 3_600_000;
const at = (text: string): number => Date.parse(text);
const window = (cron: string, more: Partial<MaintenanceWindow> = {}): MaintenanceWindow =>
  MaintenanceWindow.parse({ cron, durationMs: 2 * HOUR, timeZone: 'Europe/Paris', ...more });
const opensOf = (one: MaintenanceWindow, now: string, zone?: string): string[] =>
  (spansAt([one], zone, at(now)) ?? []).slice(0, 3).map(({ opens }) => new Date(opens).toISOString());

test('a nightly window opens at its local time, before and after clocks change', () => {
  expect(opensOf(window('0 1 * * *'), '2027-03-27T12:00:00Z')).toEqual([
    '2027-03-28T00:00:00.000Z',
    '2027-03-28T23:00:00.000Z',
    '2027-03-29T23:00:00.000Z',
  ]);
});

test('where clocks go forward, a window in the hour left out opens when that hour would have ended', () => {
  expect(opensOf(window('30 2 * * *'), '2027-03-27T12:00:00Z')).toEqual([
    '2027-03-28T01:00:00.000Z',
    '2027-03-29T00:30:00.000Z',
    '2027-03-30T00:30:00.000Z',
  ]);
});

test('where clocks go back, a window in the hour that comes twice opens once, the first time, from wherever one looks', () => {
  for (const now of ['2027-10-30T12:00:00Z', '2027-10-31T00:10:00Z', '2027-10-31T00:40:00Z', '2027-10-31T01:10:00Z'])
    expect(opensOf(window('30 2 * * *'), now)).toEqual([
      '2027-10-31T00:30:00.000Z',
      '2027-11-01T01:30:00.000Z',
      '2027-11-02T01:30:00.000Z',
    ]);
});

test.each([
  ['Europe/Berlin', '2027-03-28', '2027-03-28T01:00:00.000Z'],
  ['Europe/Berlin', '2027-10-31', '2027-10-31T00:30:00.000Z'],
  ['America/New_York', '2027-03-14', '2027-03-14T07:00:00.000Z'],
  ['America/New_York', '2027-11-07', '2027-11-07T07:30:00.000Z'],
  // Clocks go forward by half an hour: at 02:30 they just have.
  ['Australia/Lord_Howe', '2027-10-02', '2027-10-02T15:30:00.000Z'],
])(
  'at 02:30 in %s the nights around %s have one opening each, by the local clock but for that night',
  (zone, change, then) => {
    const shown = new Intl.DateTimeFormat('en-GB', { timeZone: zone, hour: '2-digit', minute: '2-digit' });
    const nights = [-2, -1, 0, 1].map((days) => {
      const noon = at(`${change}T12:00:00Z`) + (zone === 'Australia/Lord_Howe' ? days : days - 1) * 24 * HOUR;
      const opens = spansAt([window('30 2 * * *')], zone, noon)!.filter((span) => span.opens > noon);
      expect(opens[0]!.opens - noon).toBeLessThan(24 * HOUR);
      expect(opens[1]!.opens - noon).toBeGreaterThan(24 * HOUR);
      return opens[0]!.opens;
    });
    const iso = nights.map((opens) => new Date(opens).toISOString());
    expect(iso).toContain(then);
    const others = nights.filter((_, index) => iso[index] !== then);
    expect(others.map((opens) => shown.format(opens))).toEqual(others.map(() => '02:30'));
    expect(others).toHaveLength(3);
  },
);

test('the hour after the one that comes twice is not opened an hour early', () => {
  const opens = (cron: string, timeZone: string, now: string): string[] =>
    opensOf(window(cron, { timeZone }), now).slice(0, 2);
  expect(opens('0 3 * * *', 'Europe/Berlin', '2027-10-30T12:00:00Z')).toEqual([
    '2027-10-31T02:00:00.000Z',
    '2027-11-01T02:00:00.000Z',
  ]);
  expect(opens('0 2 * * *', 'America/New_York', '2027-11-06T12:00:00Z')).toEqual([
    '2027-11-07T07:00:00.000Z',
    '2027-11-08T07:00:00.000Z',
  ]);
  expect(opens('15 1 * * *', 'America/New_York', '2027-11-06T12:00:00Z')[0]).toBe('2027-11-07T05:15:00.000Z');
  expect(opens('0 3 * * *', 'Australia/Lord_Howe', '2027-10-02T12:00:00Z')[0]).toBe('2027-10-02T16:00:00.000Z');
});

test('a window that is open while clocks change is neither longer nor shorter, and looks the same from within', () => {
  const zones = fc.constantFrom('Europe/Berlin', 'America/New_York', 'Australia/Sydney', 'Australia/Lord_Howe');
  const changes = fc.constantFrom('2027-03-28', '2027-10-31', '2027-03-14', '2027-11-07', '2027-04-04', '2027-10-03');
  fc.assert(
    fc.property(
      zones,
      changes,
      fc.nat(59),
      fc.nat(23),
      fc.integer({ min: 1, max: 12 }),
      fc.nat(48 * HOUR),
      (zone, day, minute, hour, hours, offset) => {
        const one = window(`${minute} ${hour} * * *`, { durationMs: hours * HOUR });
        const now = at(`${day}T00:00:00Z`) - 24 * HOUR + offset;
        const [span] = spansAt([one], zone, now)!;
        expect(span!.closes - span!.opens).toBe(hours * HOUR);
        expect(spansAt([one], zone, Math.max(now, span!.opens))![0]).toEqual(span);
        expect(spansAt([one], zone, span!.closes - 1)![0]).toEqual(span);
      },
    ),
    { numRuns: 60 },
  );
});

test('every form of a field is taken; a day that is rare has the openings of the next years', () => {
  const opens = (cron: string): string | undefined =>
    opensOf(window(cron, { timeZone: 'UTC' }), '2027-10-30T12:30:00Z')[0];
  expect(opens('0 2 * * MON-FRI')).toBe('2027-11-01T02:00:00.000Z');
  expect(opens('0 2 * * 7')).toBe('2027-10-31T02:00:00.000Z');
  expect(opens('0 */6 * * *')).toBe('2027-10-30T12:00:00.000Z');
  expect(opens('0 2 1,15 * *')).toBe('2027-11-01T02:00:00.000Z');
  expect(opens(' 0 2 * JAN * ')).toBe('2028-01-01T02:00:00.000Z');
  expect(opens('0 2 29 2 *')).toBe('2028-02-29T02:00:00.000Z');
  // Either is enough, as in cron.
  expect(opensOf(window('0 2 13 * 5', { timeZone: 'UTC' }), '2027-11-01T00:00:00Z')).toEqual(
    ['2027-11-05', '2027-11-12', '2027-11-13'].map((day) => `${day}T02:00:00.000Z`),
  );
});

test('a window is open for elapsed time, also across a change', () => {
  const [span] = spansAt([window('0 1 * * *', { durationMs: 3 * HOUR })], undefined, at('2027-03-28T00:30:00Z'))!;
  expect(span).toEqual({ opens: at('2027-03-28T00:00:00Z'), closes: at('2027-03-28T03:00:00Z') });
});

test('a device’s own time zone counts where it reports one that exists, and where the window is of the device', () => {
  const now = '2026-12-01T00:00:00Z';
  const fixed = window('0 2 * * *', { ofDevice: false });
  expect(opensOf(window('0 2 * * *'), now, 'America/New_York')[0]).toBe('2026-12-01T07:00:00.000Z');
  expect(opensOf(window('0 2 * * *'), now, 'Atlantis/Main')[0]).toBe('2026-12-01T01:00:00.000Z');
  expect(opensOf(fixed, now, 'America/New_York')[0]).toBe('2026-12-01T01:00:00.000Z');
});

test('no windows mean any time, overlapping ones are one span', () => {
  expect(spansAt([], undefined, 5)).toBeUndefined();
  expect(mayInstallAt({}, 5)).toBe(5);
  const [first] = spansAt([window('0 1 * * *'), window('0 2 * * *')], undefined, at('2026-12-01T00:30:00Z'))!;
  expect(first!.closes - first!.opens).toBe(3 * HOUR);
});

test('windows that name no time or no zone are refused with what is wrong', () => {
  expect(checkWindows([window('0 2 * * *')], at('2026-12-01T00:00:00Z')).ok).toBe(true);
  expect(checkWindows([window('0 2 * * *', { timeZone: 'Mars/Base' })], 0)).toMatchObject({
    ok: false,
    detail: expect.stringContaining('Mars/Base'),
  });
  expect(checkWindows([window('0 27 * * *')], 0)).toMatchObject({ ok: false, code: 'invalid-request' });
  expect(checkWindows([window('0 2 30 2 *')], 0)).toMatchObject({
    ok: false,
    detail: 'the cron expression "0 2 30 2 *" is of no use: it never comes true',
  });
  const often = MaintenanceWindow.safeParse({ cron: '0,30 * * * *', durationMs: HOUR });
  expect(often.error?.issues[0]?.message).toContain('for several openings an hour give several windows');
  expect(MaintenanceWindow.safeParse({ cron: '* * * * *', durationMs: HOUR }).success).toBe(false);
});

test('activation waits for its time and for a window, and for a command as long as none comes', () => {
  const windows = [
    { opens: 100, closes: 200 },
    { opens: 300, closes: 400 },
  ];
  expect(mayActivateAt({ windows, activateAt: 150 }, 0)).toBe(150);
  expect(mayActivateAt({ windows, activateAt: 250 }, 0)).toBe(300);
  expect(mayActivateAt({ windows, activateAt: null }, 150)).toBeUndefined();
  expect(mayActivateAt({ windows }, 400)).toBeUndefined();
  expect(mayActivateAt({ activateAt: 7 }, 9)).toBe(9);
});

test('whenever one asks, spans are in order, apart, not over, and agree with what was said earlier', () => {
  const zones = fc.constantFrom('Europe/Paris', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kolkata', 'UTC');
  fc.assert(
    fc.property(
      zones,
      fc.integer({ min: 0, max: 59 }),
      fc.integer({ min: 0, max: 23 }),
      fc.integer({ min: at('2026-11-01T00:00:00Z'), max: at('2028-11-01T00:00:00Z') }),
      fc.integer({ min: 0, max: 3 * 24 * HOUR }),
      (timeZone, minute, hour, now, later) => {
        const one = window(`${minute} ${hour} * * *`, { timeZone });
        const spans = spansAt([one], undefined, now)!;
        for (const [index, { opens, closes }] of spans.entries()) {
          expect(closes).toBeGreaterThan(Math.max(now, opens));
          expect(opens).toBeGreaterThan(spans[index - 1]?.closes ?? 0);
        }
        expect(firstOpenAt(spansAt([one], undefined, now + later), now + later)).toBe(firstOpenAt(spans, now + later));
      },
    ),
    { numRuns: 60 },
  );
});

import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { stepInstall } from '#agent/domain/install.ts';
import type { InstallState } from '#agent/domain/install-state.ts';
import type { Timing } from '#shared/windows.ts';
import { offerOf } from './model.ts';

const stateWith = (state: 'waiting' | 'ready', timing: Timing): InstallState => {
  const offer = offerOf(1);
  return { state, slot: 'b', since: 0, transitions: 3, offer: { ...offer, install: { ...offer.install, ...timing } } };
};
const HOUR = 3_600_000;
const WINDOWS = [
  { opens: 10 * HOUR, closes: 12 * HOUR },
  { opens: 34 * HOUR, closes: 36 * HOUR },
];

test('nothing begins outside of a window, and what is installed is not activated there', () => {
  for (const [at, isOpen] of [
    [9, false],
    [10, true],
    [11, true],
    [13, false],
    [34, true],
    [40, false],
  ] as const) {
    const permitted = stepInstall(stateWith('waiting', { windows: WINDOWS }), { kind: 'permitted', at: at * HOUR });
    expect([at, permitted.next.state]).toEqual([at, isOpen ? 'fetching' : 'waiting']);
    const confirmed = stepInstall(stateWith('ready', { windows: WINDOWS }), { kind: 'confirmed', at: at * HOUR });
    expect([at, confirmed.next.state]).toEqual([at, isOpen ? 'activating' : 'ready']);
  }
});

test('a device that was let go on just before a window closed is not stopped by the time that saying so takes', () => {
  const { next } = stepInstall(stateWith('ready', { windows: WINDOWS }), { kind: 'confirmed', at: 12 * HOUR + 5_000 });
  expect(next.state).toBe('activating');
});

test('an installed version waits for its time, or for a renewed instruction without one', () => {
  const timed = stateWith('ready', { activateAt: 5 * HOUR });
  expect(stepInstall(timed, { kind: 'confirmed', at: 5 * HOUR - 1 }).next).toBe(timed);
  expect(stepInstall(timed, { kind: 'confirmed', at: 5 * HOUR }).next.state).toBe('activating');
  const held = stateWith('ready', { activateAt: null });
  expect(stepInstall(held, { kind: 'confirmed', at: 1e12 }).next).toBe(held);
  const renewed = stepInstall(held, { kind: 'renewed', at: HOUR, offer: offerOf(1, 2) });
  expect(renewed).toMatchObject({ next: { state: 'ready' }, effects: [] });
  expect(stepInstall(renewed.next, { kind: 'confirmed', at: HOUR }).next.state).toBe('activating');
});

test('the fleet’s time decides, not the device’s clock, however wrong that is', () => {
  for (const at of [0, 9 * HOUR, 11 * HOUR, 1e13]) {
    const inside = stepInstall(stateWith('waiting', { windows: WINDOWS }), { kind: 'permitted', at, time: 11 * HOUR });
    expect(inside.next.state).toBe('fetching');
    const outside = stepInstall(stateWith('ready', { windows: WINDOWS }), { kind: 'confirmed', at, time: 20 * HOUR });
    expect(outside.next.state).toBe('ready');
  }
});

test('an install that runs may finish outside of its window', () => {
  const verified: InstallState = { ...stateWith('waiting', { windows: WINDOWS }), state: 'verified' } as InstallState;
  expect(stepInstall(verified, { kind: 'installed', at: 20 * HOUR }).next.state).toBe('ready');
});

test('whatever the instruction says, activation never comes before its time', () => {
  const span = fc
    .tuple(fc.nat(1_000), fc.nat(100))
    .map(([opens, length]) => ({ opens: opens * 60_000, closes: (opens + length) * 60_000 }));
  fc.assert(
    fc.property(
      fc.option(fc.array(span, { maxLength: 4 }), { nil: undefined }),
      fc.oneof(fc.constant(null), fc.constant(undefined), fc.nat(60_000_000)),
      fc.nat(70_000_000),
      (windows, activateAt, at) => {
        const timing: Timing = { ...(windows ? { windows } : {}), ...(activateAt === undefined ? {} : { activateAt }) };
        const went = stepInstall(stateWith('ready', timing), { kind: 'confirmed', at }).next.state === 'activating';
        if (!went) return;
        expect(activateAt).not.toBeNull();
        expect(at).toBeGreaterThanOrEqual(activateAt ?? 0);
        const inOne = windows?.some(({ opens, closes }) => opens <= at && at < closes + 60_000) ?? true;
        expect(inOne).toBe(true);
      },
    ),
  );
});

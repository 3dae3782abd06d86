import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { ASKED_MIN, mayActivateUnconfirmed } from '#agent/domain/unconfirmed.ts';
import { openFleetTime } from '#agent/server/fleet-time.ts';

const EARLIEST = Date.UTC(2026, 0);
const clocks = (wall: number) => {
  const at = { wall, monotonic: 0 };
  const time = openFleetTime({
    wall: () => at.wall,
    monotonic: () => at.monotonic,
    earliest: () => EARLIEST,
    trusted: () => Math.max(at.wall, EARLIEST),
  });
  const pass = (ms: number): void => {
    at.wall += ms;
    at.monotonic += ms;
  };
  return { at, time, pass };
};

test('whatever a device’s clock says, time goes on from the server’s last word', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 4e12 }), fc.nat(1e9), fc.nat(1e9), (wall, sinceEarliest, passed) => {
      const { time, pass } = clocks(wall);
      time.learn(EARLIEST + sinceEarliest);
      pass(passed);
      expect(time.known()).toBe(true);
      expect(time.now()).toBe(EARLIEST + sinceEarliest + passed);
    }),
  );
});

test('a server that claims an earlier time than is certain is not believed that far', () => {
  const { time } = clocks(EARLIEST);
  time.learn(0);
  expect(time.now()).toBe(EARLIEST);
});

test('unheard, time is the clock’s, and never earlier than is certain', () => {
  expect(clocks(0).time.now()).toBe(EARLIEST);
  expect(clocks(EARLIEST + 5).time.now()).toBe(EARLIEST + 5);
});

test('when the clock is set, by hours or years, the server is asked again, and its word goes on until then', () => {
  for (const setBy of [60_000, -60_000, 3_600_000, -3_600_000, 31_536_000_000, -31_536_000_000]) {
    const { at, time, pass } = clocks(EARLIEST);
    time.learn(EARLIEST + 1_000_000);
    at.wall += Math.sign(setBy) * 59_999;
    expect(time.known()).toBe(true);
    at.wall += setBy - Math.sign(setBy) * 59_999;
    pass(5_000);
    expect(time.known()).toBe(false);
    expect(time.now()).toBe(EARLIEST + 1_005_000);
    time.learn(EARLIEST + 2_000_000);
    expect(time.known()).toBe(true);
    expect(time.now()).toBe(EARLIEST + 2_000_000);
  }
});

test('unconfirmed activation needs permission, a clock, an offer that stands, and a server that was looked for', () => {
  const offer = (confirm?: 'when-reachable') => ({ install: { confirm } as never, expires: 1_000 });
  const facts = { trusted: 999, silentMs: 60_000, asked: ASKED_MIN, serverContact: false };
  expect(mayActivateUnconfirmed(offer('when-reachable'), facts, 60_000)).toBe(true);
  expect(mayActivateUnconfirmed(offer(), facts, 60_000)).toBe(false);
  expect(mayActivateUnconfirmed(offer('when-reachable'), { ...facts, serverContact: true }, 60_000)).toBe(false);
  expect(mayActivateUnconfirmed(offer('when-reachable'), { ...facts, trusted: undefined }, 60_000)).toBe(false);
  expect(mayActivateUnconfirmed(offer('when-reachable'), { ...facts, trusted: 1_000 }, 60_000)).toBe(false);
  expect(mayActivateUnconfirmed(offer('when-reachable'), { ...facts, silentMs: 59_999 }, 60_000)).toBe(false);
  expect(mayActivateUnconfirmed(offer('when-reachable'), { ...facts, asked: ASKED_MIN - 1 }, 60_000)).toBe(false);
});

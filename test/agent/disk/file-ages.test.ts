import { expect, test } from 'vitest';
import { openFileAges } from '#agent/disk/file-ages.ts';

const HOUR = 3_600_000;
const YEAR = 31_536_000_000;
const WITHIN = 10_000;

const rig = (firstLook: 'judge' | 'believe' = 'judge') => {
  const at = { wall: 60 * YEAR, monotonic: 5_000 };
  const ages = openFileAges(firstLook, { wall: () => at.wall, monotonic: () => at.monotonic });
  const pass = (ms: number): void => {
    at.wall += ms;
    at.monotonic += ms;
  };
  let mtime = at.wall;
  return {
    at,
    pass,
    write: () => (mtime = at.wall),
    is: (written: number) => (mtime = written),
    see: () => ages.see('/data/alive', mtime, WITHIN),
    miss: () => ages.miss('/data/alive'),
  };
};

test('a file that is written stays fresh, and one that is not grows old, however the clock is set between', () => {
  for (const setBy of [-50 * YEAR, -HOUR, -20_000, 20_000, HOUR, 50 * YEAR]) {
    const file = rig();
    expect(file.see()).toBe(0);
    file.pass(4_000);
    file.at.wall += setBy;
    // Not written since: so old as it is.
    expect([setBy, file.see()]).toEqual([setBy, 4_000]);
    file.write();
    file.pass(1_000);
    expect([setBy, file.see()]).toEqual([setBy, 1_000]);
    // Written, then the clock is set: no older than the last look.
    file.write();
    file.at.wall += setBy;
    file.pass(3_000);
    expect(file.see()).toBeLessThanOrEqual(3_000);
    file.pass(20_000);
    expect(file.see()).toBeGreaterThan(WITHIN);
  }
});

test('at the first look a clock that was set since the looks began counts as it was, and a file from the future not at all', () => {
  for (const setBy of [-HOUR, HOUR]) {
    const file = rig();
    file.write();
    file.at.wall += setBy;
    file.pass(3_000);
    expect([setBy, file.see()]).toEqual([setBy, 3_000]);
  }
  const file = rig();
  file.is(file.at.wall + HOUR);
  expect(file.see()).toBe('future');
  file.pass(1_000);
  expect(file.see()).toBe('future');
  file.write();
  expect(file.see()).toBe(0);
  const old = rig();
  old.is(old.at.wall - HOUR);
  expect(old.see()).toBe(HOUR);
});

test('after a commit what no look has seen yet counts as new, and grows old from then on', () => {
  for (const setBy of [-YEAR, -HOUR, HOUR, YEAR]) {
    const file = rig('believe');
    file.is(file.at.wall + setBy);
    expect(file.see()).toBe(0);
    file.pass(WITHIN + 1);
    expect(file.see()).toBeGreaterThan(WITHIN);
  }
});

test('a file that comes is new, whatever its time', () => {
  const file = rig();
  file.miss();
  file.pass(1_000);
  file.is(file.at.wall - YEAR);
  expect(file.see()).toBe(0);
});

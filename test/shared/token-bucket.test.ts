import { array, assert, integer, property } from 'fast-check';
import { expect, test } from 'vitest';
import { addressGroup, fullBucket, perKey, take, waitMs } from '#shared/token-bucket.ts';

const RATE = { burst: 5, perSecond: 2 };

test('whatever the arrivals, no more pass than the burst and the rate over the time', () => {
  assert(
    property(array(integer({ min: 0, max: 3_000 }), { minLength: 1, maxLength: 200 }), (gapsMs) => {
      const allowed = perKey(RATE, 10);
      let now = 1_000_000;
      let passed = 0;
      const start = now;
      for (const gap of gapsMs) {
        now += gap;
        if (allowed('one', now)) passed += 1;
      }
      expect(passed).toBeLessThanOrEqual(RATE.burst + ((now - start) / 1000) * RATE.perSecond + 1e-6);
    }),
  );
});

test('who waits as long as the debt says is welcome again', () => {
  const bucket = fullBucket(RATE, 0);
  let left = 0;
  for (let i = 0; i < 9; i++) left = take(bucket, RATE, 0);
  expect(left).toBe(-4);
  expect(waitMs(left, RATE)).toBe(2_000);
  expect(take(bucket, RATE, 2_000, 0)).toBe(0);
});

test('a clock that is set back neither gives nor takes', () => {
  const bucket = fullBucket(RATE, 10_000);
  take(bucket, RATE, 10_000, 5);
  expect(take(bucket, RATE, 0, 0)).toBe(0);
});

test('keys do not share, and the key that is quiet longest is forgotten first', () => {
  const allowed = perKey({ burst: 1, perSecond: 0.001 }, 2);
  expect([allowed('a', 0), allowed('b', 0), allowed('a', 0)]).toEqual([true, true, false]);
  expect(allowed('c', 0)).toBe(true);
  expect(allowed('a', 0)).toBe(false);
  expect(allowed('b', 0)).toBe(true);
});

test.each([
  ['192.0.2.7', '192.0.2.7'],
  ['::ffff:192.0.2.7', '192.0.2.7'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
  ['2001:db8:1:2::9', '2001:db8:1:2::/64'],
  ['2001:db8::1', '2001:db8:0:0::/64'],
  ['fe80::1%eth0', 'fe80:0:0:0::/64'],
  ['::1', '0:0:0:0::/64'],
])('%s counts as %s', (address, group) => {
  expect(addressGroup(address)).toBe(group);
});

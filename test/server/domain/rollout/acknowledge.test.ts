/* oxlint-disable vitest/expect-expect -- a property asserts by what it returns to fc.assert */
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { countOutcomes } from '#server/domain/deployment/deployment.ts';
import { deviceProgressOf } from '#server/domain/deployment/device-progress.ts';
import { failuresAmong, namedIn, stillAcknowledged } from '#server/domain/rollout/acknowledge.ts';
import { setAside, tallyOf } from '#server/domain/rollout/tally.ts';
import { DEPLOYMENT_STATES, DID } from '#shared/deployment.ts';
import { planned } from '#test/server/store/records.ts';

const one = (device: string, state: 'failed' | 'reverted' | 'committed', wave = 0) =>
  planned('r1', device, { state, wave, offeredAt: 1, acceptedAt: 2, decidedAt: 3 });

test('failures are named by wave and group; what did well is not among them', () => {
  const all = [one('gw-1', 'failed'), one('gw-2', 'reverted'), one('gw-3', 'committed'), one('gw-4', 'failed', 1)];
  expect(failuresAmong(all)).toMatchObject([
    { wave: 0, failed: 2, deployments: ['r1-gw-1', 'r1-gw-2'] },
    { wave: 1, failed: 1, deployments: ['r1-gw-4'] },
  ]);
});

test('one that turned out well after all excuses no other that failed since', () => {
  const acknowledged = failuresAmong([one('gw-1', 'failed'), one('gw-2', 'failed')]);
  const now = [one('gw-1', 'committed'), one('gw-2', 'failed')];
  const left = stillAcknowledged(acknowledged, now);
  expect(namedIn(left)).toEqual(['r1-gw-2']);
  // gw-3 is the new failure: by number alone it would have been excused.
  const bins = countOutcomes([...now, one('gw-3', 'failed')], 1_000);
  expect(tallyOf(setAside(bins, left)).failed).toBe(1);
});

test('while all of them are failures nothing changes, not even the array', () => {
  const acknowledged = failuresAmong([one('gw-1', 'failed')]);
  expect(stillAcknowledged(acknowledged, [one('gw-1', 'reverted')])).toBe(acknowledged);
  expect(stillAcknowledged(acknowledged, [one('gw-1', 'committed')])).toEqual([]);
});

test('acknowledging all leaves nothing to count, whatever the fleet', () => {
  const fleet = fc.array(fc.tuple(fc.constantFrom('failed', 'reverted', 'committed'), fc.nat(3)), { maxLength: 40 });
  fc.assert(
    fc.property(fleet, (devices) => {
      const all = devices.map(([state, wave], n) => one(`gw-${n}`, state as 'failed', wave));
      return tallyOf(setAside(countOutcomes(all, 1), failuresAmong(all))).failed === 0;
    }),
  );
});

test('what a device did is told of every state, and of a withdrawn one by how far it had come', () => {
  for (const state of DEPLOYMENT_STATES) expect(DID).toContain(deviceProgressOf({ state, acceptedAt: 1 }));
  expect(deviceProgressOf({ state: 'withdrawn', acceptedAt: 1, reached: 'ready' })).toBe('installed');
  expect(deviceProgressOf({ state: 'withdrawn', acceptedAt: null, reached: 'offered' })).toBe('nothing');
  expect(deviceProgressOf({ state: 'overdue', acceptedAt: 1 })).toBe('unknown');
  expect(deviceProgressOf({ state: 'overdue', acceptedAt: 1, overdue: 'silent', reached: 'trial' })).toBe('unknown');
  expect(deviceProgressOf({ state: 'overdue', acceptedAt: 1, overdue: 'stuck', reached: 'trial' })).toBe('on-trial');
});

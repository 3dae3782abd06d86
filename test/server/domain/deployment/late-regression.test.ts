/* oxlint-disable vitest/expect-expect -- a property asserts by what it returns to fc.assert */
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  regressionOf,
  stepWatched,
  type WatchedHealth,
  watchEndsAt,
} from '#server/domain/deployment/late-regression.ts';
import { Policy } from '#shared/policy.ts';
import { digest, planned } from '#test/server/store/records.ts';

const AT = 1_800_000_000_000;
const policy = Policy.parse({ watch: { watchMs: 3_600_000, unhealthyMs: 300_000, restartsMax: 2 } });
const committed = planned('r1', 'gw-1', { state: 'committed', offeredAt: AT, acceptedAt: AT, decidedAt: AT });
const well: WatchedHealth = {
  unhealthySince: null,
  restarts: 0,
  runs: digest(1),
  committed: digest(1),
  lastSeenAt: AT + 60_000,
};

test('a device that runs what it committed, and is well, stays as it is', () => {
  expect(stepWatched(committed, well, AT + 1, policy)).toEqual({ next: committed, audit: [] });
});

test('a device that went back to another release counts as reverted, and the log says why', () => {
  const { next, audit } = stepWatched(committed, { ...well, runs: digest(2) }, AT + 1_000, policy);
  expect(next).toMatchObject({ state: 'reverted', decidedAt: AT + 1_000, error: { code: 'REGRESSED' } });
  expect(audit).toMatchObject([{ kind: 'regressed', device: 'gw-1', to: 'reverted' }]);
});

test('what a device runs says nothing as long as it is not known', () => {
  expect(regressionOf(committed, { ...well, runs: null }, AT + 1, policy)).toBeNull();
  expect(regressionOf(committed, { ...well, committed: null }, AT + 1, policy)).toBeNull();
});

test('a crash loop is more restarts than the policy lets pass', () => {
  expect(regressionOf(committed, { ...well, restarts: 2 }, AT + 1, policy)).toBeNull();
  expect(stepWatched(committed, { ...well, restarts: 3 }, AT + 1, policy).next.state).toBe('failed');
});

test('a device must call itself unhealthy for long, to its last word; silence adds nothing', () => {
  const ill = { ...well, unhealthySince: AT + 1_000, lastSeenAt: AT + 200_000 };
  expect(regressionOf(committed, ill, AT + 3_000_000, policy)).toBeNull();
  expect(regressionOf(committed, { ...ill, lastSeenAt: AT + 301_000 }, AT + 302_000, policy)).toEqual({
    kind: 'unhealthy',
    forMs: 300_000,
  });
});

test('where the device says what is wrong with it, so does the log', () => {
  const ill = { ...well, unhealthySince: AT, lastSeenAt: AT + 300_000, says: 'the check database fails: ECONNREFUSED' };
  const message = 'it has called itself unhealthy for 300 s: the check database fails: ECONNREFUSED';
  const { next, audit } = stepWatched(committed, ill, AT + 300_001, policy);
  expect(next.error).toEqual({ code: 'REGRESSED', message });
  expect(audit).toMatchObject([{ kind: 'regressed', why: message }]);
});

test('nothing but a committed device within its watch ever moves, and it moves to reverted or failed', () => {
  const millis = fc.integer({ min: AT - 1_000, max: AT + 8_000_000 });
  fc.assert(
    fc.property(
      fc.constantFrom('planned', 'trial', 'committed', 'failed', 'withdrawn', 'overdue', 'skipped'),
      fc.record({
        unhealthySince: fc.option(millis),
        restarts: fc.nat(20),
        runs: fc.option(fc.constantFrom(digest(1), digest(2))),
        committed: fc.option(fc.constantFrom(digest(1), digest(2))),
        lastSeenAt: fc.option(millis),
      }),
      millis,
      (state, health, now) => {
        const before = { ...committed, state } as typeof committed;
        const { next, audit } = stepWatched(before, health, now, policy);
        if (next === before) return audit.length === 0;
        return (
          state === 'committed' &&
          now < AT + policy.watch.watchMs &&
          (next.state === 'reverted' || next.state === 'failed') &&
          audit.length === 1 &&
          next.revision === before.revision
        );
      },
    ),
  );
});

test('the watch of a rollout ends after that of its last commit, never before', () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ accepted: fc.integer({ min: AT, max: AT + 1e7 }), took: fc.nat(1e7) }), { minLength: 1 }),
      fc.integer({ min: 1, max: 100_000 }),
      (commits, binMs) => {
        const bins = commits.map(({ accepted, took }) => ({
          outcome: 'healthy',
          startBin: Math.floor(accepted / binMs),
          delayBins: Math.floor(took / binMs),
        }));
        const last = Math.max(...commits.map(({ accepted, took }) => accepted + took));
        const ends = watchEndsAt(bins, binMs, 1_000);
        return ends !== null && ends >= last + 1_000 && ends <= last + 1_000 + 2 * binMs;
      },
    ),
  );
  expect(watchEndsAt([], 1, 1_000)).toBeNull();
  expect(watchEndsAt([{ outcome: 'healthy', startBin: 1, delayBins: 1 }], 1, 0)).toBeNull();
});

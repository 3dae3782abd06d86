import { expect, test } from 'vitest';
import { backoffMs, jitteredMs } from '#agent/domain/backoff.ts';
import { evidenceOf, rebuildMemory, standbyOf } from '#agent/domain/restart-evidence.ts';
import type { SlotsView } from '#agent/domain/slots.ts';
import { Id, Sha256 } from '#shared/ids.ts';

const running = {
  product: Id.parse('p'),
  version: '1.0.0',
  manifest: Sha256.parse('0'.repeat(64)),
  slot: 'a' as const,
};
const view: SlotsView = {
  active: 'a',
  trial: null,
  slots: { a: { state: 'bootable', running, securityCounter: 4 }, b: { state: 'unbootable' } },
};
const trial = { slot: 'b' as const, triesLeft: 2, deployment: 'dep-1' };

test('what the slots say after a restart', () => {
  expect(evidenceOf(view, { slot: 'b' })).toBe('found-untouched');
  expect(evidenceOf({ ...view, trial }, { slot: 'b' })).toBe('found-on-trial');
  expect(evidenceOf({ ...view, active: 'b' }, { slot: 'b' })).toBe('found-active');
});

test('the standby slot is never the committed one', () => {
  expect([standbyOf({ active: null }), standbyOf({ active: 'a' }), standbyOf({ active: 'b' })]).toEqual([
    'a',
    'b',
    'a',
  ]);
});

test('a memory rebuilt from the slots keeps the floor, and asks to end a trial whose rules are lost', () => {
  expect(rebuildMemory(view, 0, 1_000)).toMatchObject({
    memory: { install: { state: 'idle' }, floor: 4, reportSeq: 1_000 },
    revert: false,
  });
  expect(rebuildMemory({ ...view, trial }, 9, 1_000)).toMatchObject({ memory: { floor: 9 }, revert: true });
});

test('waits double up to a ceiling, are spread over all of it, and are never nothing', () => {
  const backoff = { firstMs: 1_000, maxMs: 300_000 };
  expect([0, 1, 2, 8, 9, 1_000].map((attempt) => backoffMs(attempt, backoff, 1))).toEqual([
    1_000, 2_000, 4_000, 256_000, 300_000, 300_000,
  ]);
  expect(backoffMs(5, backoff, 0.5)).toBe(16_000);
  expect(backoffMs(5, backoff, 0)).toBe(100);
  expect([jitteredMs(1_000, 0), jitteredMs(1_000, 1)]).toEqual([800, 1_200]);
});

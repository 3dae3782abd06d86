import { expect, test } from 'vitest';
import { isRecallable, type RecallFacts } from '#server/domain/rollout/recall.ts';
import { Sha256 } from '#shared/ids.ts';

const [manifest, other] = ['a', 'b'].map((digit) => Sha256.parse(digit.repeat(64))) as [Sha256, Sha256];
const facts = (more: Partial<RecallFacts> = {}): RecallFacts => ({
  state: 'committed',
  error: null,
  runs: manifest,
  manifest,
  committedElsewhere: false,
  ...more,
});

test('a device that committed the release, or ran it before, is recalled, also when it has not said what it runs', () => {
  expect(isRecallable(facts())).toBe(true);
  expect(isRecallable(facts({ state: 'skipped' }))).toBe(true);
  expect(isRecallable(facts({ runs: null }))).toBe(true);
});

test('so is one that committed it and fell ill later; one that failed otherwise never ran it for good', () => {
  expect(isRecallable(facts({ state: 'failed', error: { code: 'REGRESSED', message: '' } }))).toBe(true);
  expect(isRecallable(facts({ state: 'failed', error: { code: 'SELFTEST_FAILED', message: '' } }))).toBe(false);
  expect(isRecallable(facts({ state: 'reverted' }))).toBe(false);
});

test('one that runs something else by now, or has committed another rollout since, is left alone', () => {
  expect(isRecallable(facts({ runs: other }))).toBe(false);
  expect(isRecallable(facts({ committedElsewhere: true }))).toBe(false);
});

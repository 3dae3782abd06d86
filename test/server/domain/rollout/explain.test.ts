import { describe, expect, test } from 'vitest';
import type { HaltReason } from '#server/domain/halt-reason.ts';
import { explainRollout } from '#server/domain/rollout/explain.ts';
import type { Hold, Rollout, RolloutState } from '#server/domain/rollout/rollout.ts';
import { durationWords } from '#server/domain/words.ts';
import { BAD, fleetOf } from './fleet.ts';

const NOW = 1_800_000_000_000;
const explain = (progress: RolloutState): string => {
  const rollout: Rollout = {
    ...fleetOf({ devices: 8, behaviour: () => BAD, waves: [{ count: 2 }, { percent: 100 }] }).rollout,
    progress,
  };
  return explainRollout(rollout, NOW);
};
const running = (hold: Hold | null, wave = 0): string =>
  explain({ state: 'running', wave, waveSince: NOW, gateSince: null, hold });
const halted = (reason: HaltReason): string => explain({ state: 'halted', wave: 0, since: NOW, reason });

describe('why a rollout is where it is', () => {
  test.each<[RolloutState, string]>([
    [{ state: 'draft' }, 'A draft: it has not been submitted.'],
    [
      { state: 'awaiting-approval', needed: 2, approvedBy: ['bob'], startAt: 0 },
      'Waits for approval: 1 of 2 given (bob).',
    ],
    [{ state: 'scheduled', startAt: NOW + 7_500_000 }, 'Starts in 2 h 5 min.'],
    [{ state: 'scheduled', startAt: NOW }, 'Starts now.'],
    [
      { state: 'paused', wave: 1, since: NOW, by: 'alice', note: 'storm' },
      'alice paused it in wave 2: storm. No one new is offered the release until it is resumed.',
    ],
    [{ state: 'completed', at: NOW }, 'Completed: every device is decided.'],
    [{ state: 'aborted', at: NOW, by: 'alice', note: '' }, 'alice aborted it. Trials in progress finish.'],
  ])('%#', (progress, sentence) => {
    expect(explain(progress)).toBe(sentence);
  });

  test.each<[Hold | null, string]>([
    [null, 'In wave 1 of 2: offers go out as devices are free to take them.'],
    [
      { kind: 'judge', risk: 19.6, upperBound: 0.2589, unaccepted: 0, group: 'all/gw2' },
      'In wave 1 of 2: waits for evidence of health in all/gw2: 19.6 devices beyond the tolerated share may be failing, and up to 25.9 % failing is still plausible.',
    ],
    [
      { kind: 'judge', risk: 0, upperBound: 1, unaccepted: 20, group: 'all/gw2' },
      'In wave 1 of 2: waits for evidence of health in all/gw2: 20 devices have not answered their offers, and up to 100 % failing is still plausible.',
    ],
    [
      { kind: 'at-risk-limit', atRisk: 7, limit: 7 },
      'In wave 1 of 2: waits, because 7 devices are between offer and outcome, where at most 7 may be.',
    ],
    [
      { kind: 'rate-limit', nextAt: NOW + 4_100 },
      'In wave 1 of 2: waits 5 s for the next offers, as the policy limits starts per minute.',
    ],
    [
      { kind: 'gate', committed: 1, needed: 2, soakEndsAt: null },
      'In wave 1 of 2: waits for devices to commit: 1 so far, 2 needed for the next wave to open.',
    ],
    [
      { kind: 'gate', committed: 2, needed: 2, soakEndsAt: NOW + 30_000 },
      'In wave 1 of 2: enough devices committed (2, where 2 must); the next wave opens when this has stayed so for another 30 s.',
    ],
  ])('running %#', (hold, sentence) => {
    expect(running(hold)).toBe(sentence);
  });

  test('the last wave opens nothing more', () => {
    expect(running({ kind: 'gate', committed: 2, needed: 6, soakEndsAt: null }, 1)).toBe(
      'In wave 2 of 2: waits for devices to commit: 2 so far, 6 needed for the rollout to succeed.',
    );
    expect(running({ kind: 'gate', committed: 6, needed: 6, soakEndsAt: null }, 1)).toBe(
      'In wave 2 of 2: enough devices committed (6, where 6 must); it waits for the last outcomes.',
    );
  });

  test.each<[HaltReason, string]>([
    [
      { kind: 'evidence', failed: 3, offered: 10, evidence: 99.8067, group: 'all/gw2' },
      '3 of 10 devices failed in all/gw2, which is 99.8 to 1 evidence of a failure rate above the tolerated one',
    ],
    [
      { kind: 'budget', failed: 3, offered: 100, excess: 1, budget: 2, group: 'all/gw2' },
      '3 of 100 devices failed in all/gw2, 1 more than the tolerated share, which uses up the budget of 2',
    ],
    [
      { kind: 'percentage', failed: 1, decided: 3, percent: 33.333, limitPercent: 5 },
      '1 of 3 devices failed (33.3 %), more than the 5 % allowed',
    ],
    [
      { kind: 'gate-unreachable', wave: 0, committed: 0, failed: 1, reachable: 2, needed: 2, neverHeard: 0 },
      'the gate of wave 1 is out of reach: 1 of 2 reachable devices failed and 0 committed, where 2 must commit',
    ],
  ])('halted %#', (reason, sentence) => {
    expect(halted(reason)).toBe(
      `Halted in wave 1: ${sentence}. Offers not acted on were withdrawn; resume it with a note that acknowledges the failures, or abort it.`,
    );
  });

  test('a halted rollout that was recalled is not said to be resumable', () => {
    const reason: HaltReason = { kind: 'percentage', failed: 1, decided: 3, percent: 33.3, limitPercent: 5 };
    const recalled = { at: 1, by: 'server', note: '' };
    const words = explain({ state: 'halted', wave: 0, since: 0, reason, recalled });
    expect(words).toContain('as a recalled one it can only be aborted');
    expect(words).not.toContain('resume');
  });

  test('a wave that no one heard of is no evidence, and the sentence says what to do about it', () => {
    const reason = { wave: 0, committed: 0, failed: 0, reachable: 0, needed: 0, neverHeard: 2 };
    expect(halted({ kind: 'gate-unreachable', ...reason })).toBe(
      'Halted in wave 1: no one in wave 1 was heard: 2 devices never took the offer up and none committed, so there is no evidence to open the next wave on. See why these devices are silent; resume it with a note to open the next wave without them, or abort it.',
    );
  });

  test('after a withdrawn release there is nothing to resume', () => {
    expect(halted({ kind: 'release-withdrawn', by: 'carol' })).toBe(
      'Halted in wave 1: carol withdrew the release. Abort it, and roll out another release.',
    );
  });
});

test('lengths of time are told in at most two units, rounded up', () => {
  expect([0, 1, 59_001, 60_000, 200_000, 3_600_000, 7_500_000, 345_600_000, 90_061_000].map(durationWords)).toEqual([
    '0 s',
    '1 s',
    '1 min',
    '1 min',
    '3 min 20 s',
    '1 h',
    '2 h 5 min',
    '4 d',
    '1 d 1 h',
  ]);
});

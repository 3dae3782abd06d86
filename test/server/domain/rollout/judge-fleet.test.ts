import { describe, expect, test } from 'vitest';
import { type Behaviour, fleetOf } from './fleet.ts';

/** A small generator (mulberry32): the same seed, the same fleet. */
const randomOf = (seed: number) => {
  let state = seed;
  return (): number => {
    state = (state + 0x6d2b_79f5) | 0;
    let word = Math.imul(state ^ (state >>> 15), 1 | state);
    word = (word + Math.imul(word ^ (word >>> 7), 61 | word)) ^ word;
    return ((word ^ (word >>> 14)) >>> 0) / 2 ** 32;
  };
};
const MINUTE = 60_000;
const FLEET = 1_500;

/** Successes report after about ten minutes; failures after `failureMs`, or, that share of them, never. */
const behaviours = (seed: number, rate: number, failureMs: number, silentShare: number): Behaviour[] => {
  const random = randomOf(seed);
  return Array.from({ length: FLEET }, () => {
    const fails = random() < rate;
    const isSilent = random() < silentShare;
    const spread = (0.5 + random()) * (fails ? failureMs : 10 * MINUTE);
    return { acceptMs: 0, outcomeMs: fails && isSilent ? null : spread, outcome: fails ? 'reverted' : 'committed' };
  });
};
const roll = (seed: number, rate: number, failureMs = 10 * MINUTE, silentShare = 0.3) => {
  const all = behaviours(seed, rate, failureMs, silentShare);
  const fleet = fleetOf({
    devices: FLEET,
    behaviour: (n) => all[n]!,
    policy: { gate: { successShare: 0, soakMs: 0 }, limits: { startsPerMinute: 10_000 } },
  });
  fleet.run(() => false, 600, MINUTE);
  const harmed = fleet.deployments.filter(
    (d) => d.acceptedAt !== null && all[Number(d.device.slice(3))]!.outcome === 'reverted',
  ).length;
  return { state: fleet.rollout.progress.state, harmed, minutes: (fleet.now - fleet.rollout.createdAt) / MINUTE };
};
const seeds = [1, 2, 3, 4, 5, 6];

describe('simulated fleets, a tolerated rate of 2 % and a budget of 20', () => {
  test('a release with 1 % failures is never halted, even when failures report much sooner than successes', () => {
    expect(seeds.map((seed) => roll(seed, 0.01, MINUTE, 0).state)).toEqual(seeds.map(() => 'completed'));
  });

  test('a release that always fails harms 20, loudly or in silence', () => {
    expect(roll(1, 1)).toMatchObject({ state: 'halted', harmed: 20 });
    expect(roll(1, 1, 10 * MINUTE, 1)).toMatchObject({ state: 'halted', harmed: 20 });
  });

  test.each([0.1, 0.3])('a release that fails at a rate of %f is halted after few', (rate) => {
    const results = seeds.map((seed) => roll(seed, rate));
    expect(results.map(({ state }) => state)).toEqual(seeds.map(() => 'halted'));
    expect(Math.max(...results.map(({ harmed }) => harmed))).toBeLessThan(45);
  });

  test('silence is found as well: 10 % failing without a word', () => {
    const results = seeds.map((seed) => roll(seed, 0.1, 10 * MINUTE, 1));
    expect(results.map(({ state }) => state)).toEqual(seeds.map(() => 'halted'));
    expect(Math.max(...results.map(({ harmed }) => harmed))).toBeLessThan(60);
  });

  test('a perfect release is through before long', () => {
    expect(roll(1, 0).minutes).toBeLessThan(90);
  });
});

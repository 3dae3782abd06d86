/** How many devices begin at once, and what the others wait for. */
import { describe, expect, test } from 'vitest';
import { countOutcomes } from '#server/domain/deployment/deployment.ts';
import type { Rollout } from '#server/domain/rollout/rollout.ts';
import type { RolloutFacts } from '#server/domain/rollout/rollout-events.ts';
import { startLimit } from '#server/domain/rollout/rollout-run.ts';
import { stepRollout } from '#server/domain/rollout/rollout-step.ts';
import { Id } from '#shared/ids.ts';
import { fleetOf, GOOD, OFFLINE, QUICK, START } from './fleet.ts';

describe('limits', () => {
  test('starts per minute are spread over the minute', () => {
    expect(startLimit(1_000)).toEqual({ windowMs: 6_000, perWindow: 100 });
    expect(startLimit(15)).toEqual({ windowMs: 6_000, perWindow: 1 });
    expect(startLimit(4)).toEqual({ windowMs: 15_000, perWindow: 1 });
    expect(startLimit(1)).toEqual({ windowMs: 60_000, perWindow: 1 });
  });

  test('no minute sees more than a window’s worth above the limit', () => {
    const fleet = fleetOf({
      devices: 300,
      behaviour: () => GOOD,
      policy: { ...QUICK, judge: { rule: 'wave-percentage' }, limits: { startsPerMinute: 60 } },
    });
    fleet.run();
    expect(fleet.rollout.progress.state).toBe('completed');
    const starts = fleet.deployments.map((d) => d.offeredAt!).sort((a, b) => a - b);
    for (const from of starts) {
      expect(starts.filter((at) => at >= from && at < from + 60_000).length).toBeLessThanOrEqual(66);
    }
  });

  test('waits at the rate limit until the next window', () => {
    const fleet = fleetOf({
      devices: 30,
      behaviour: () => GOOD,
      policy: { judge: { rule: 'wave-percentage' }, limits: { startsPerMinute: 1 } },
    });
    fleet.run(() => fleet.count('trial') === 1);
    const since = fleet.now - 1_000;
    expect(fleet.happen({ kind: 'tick' }).next.progress).toMatchObject({
      hold: { kind: 'rate-limit', nextAt: since + 60_000 },
    });
  });

  test.each([1, 2, 3, 4, 5, 6])(
    'each group has its turn at a scarce limit, however regularly it ticks: every %i s',
    (seconds) => {
      const groups = ['gw2', 'gw3', 'gw4'];
      const fleet = fleetOf({
        devices: 300,
        behaviour: () => GOOD,
        compatible: (n) => groups[n % 3]!,
        policy: { limits: { startsPerMinute: 1 } },
      });
      const bins = countOutcomes(fleet.deployments, 60_000);
      const rollout: Rollout = {
        ...fleet.rollout,
        progress: { state: 'running', wave: 0, waveSince: START, gateSince: null, hold: null },
      };
      const first = Array.from({ length: 15 }, (_, tick) => {
        const step = stepRollout(rollout, { kind: 'tick' }, { now: START + tick * seconds * 1_000, bins });
        return step.offers[0]!.compatible;
      });
      expect([...new Set(first)].sort()).toEqual(groups);
    },
  );

  // It was the turn of the device: another one each second, each saved, and each change of kind a decision to keep.
  test('what it waits for is the same at every tick as long as nothing changes: evidence first, then the first window to open', () => {
    const [paris, lyon, oslo] = ['paris', 'lyon', 'oslo'].map((name) => Id.parse(name));
    const cohorts = [paris!, lyon!, oslo!];
    const fleet = fleetOf({ devices: 90, behaviour: () => OFFLINE });
    const bins = countOutcomes(
      fleet.deployments.map((one, index) => ({ ...one, cohort: cohorts[index % 3]! })),
      60_000,
    );
    const rollout: Rollout = {
      ...fleet.rollout,
      progress: { state: 'running', wave: 0, waveSince: START, gateSince: null, hold: null },
    };
    const holds = (facts: Omit<RolloutFacts, 'now'>): unknown[] => {
      const ticks = Array.from({ length: 30 }, (_, second) => START + second * 1_000);
      const held = ticks.map((now) => stepRollout(rollout, { kind: 'tick' }, { ...facts, now }).next.progress);
      const told = held.flatMap((one) => (one.state === 'running' ? [one.hold] : []));
      return [...new Map(told.map((hold) => [JSON.stringify(hold), hold])).values()];
    };
    const windows = cohorts.map((cohort, index) => ({ cohort, open: false, opensAt: START + (4 - index) * 3_600_000 }));
    expect(holds({ bins, windows })).toEqual([{ kind: 'window', cohort: oslo, opensAt: START + 2 * 3_600_000 }]);
    const asked = bins.map((bin) => (bin.cohort === lyon ? { ...bin, devices: bin.devices - 20 } : bin));
    const unaccepted = { ...bins[0]!, cohort: lyon!, outcome: 'unaccepted' as const, startBin: 0, devices: 20 };
    const lyonIsOpen = windows.map((one) => ({ ...one, open: one.cohort === lyon }));
    expect(holds({ bins: [...asked, unaccepted], windows: lyonIsOpen })).toMatchObject([
      { kind: 'judge', group: 'lyon/gw2', unaccepted: 20 },
    ]);
  });

  test('never more devices at risk than allowed', () => {
    const fleet = fleetOf({ devices: 60, behaviour: () => GOOD, policy: { ...QUICK, limits: { atRiskMax: 7 } } });
    let most = 0;
    fleet.run(() => {
      most = Math.max(most, fleet.count('offered', 'trial'));
      return false;
    });
    expect(most).toBe(7);
    expect(fleet.count('committed')).toBe(60);
  });

  test('devices that are offered but have not answered use up what the judge allows', () => {
    const fleet = fleetOf({ devices: 100, behaviour: () => OFFLINE, policy: QUICK });
    fleet.run(() => fleet.now > START + 10_000);
    expect(fleet.count('offered')).toBe(20);
    expect(fleet.rollout.progress).toMatchObject({ hold: { kind: 'judge', risk: 0, unaccepted: 20 } });
  });
});

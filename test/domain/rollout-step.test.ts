import { describe, expect, test } from 'vitest';
import { countOutcomes } from '#server/domain/deployment.ts';
import type { Rollout } from '#server/domain/rollout.ts';
import type { RolloutFacts } from '#server/domain/rollout-events.ts';
import { startLimit } from '#server/domain/rollout-run.ts';
import { stepRollout } from '#server/domain/rollout-step.ts';
import { Id } from '#shared/ids.ts';
import { BAD, fleetOf, GOOD, OFFLINE, SILENT, START } from './fleet.ts';

const quick = { gate: { soakMs: 30_000 }, deadlines: { outcomeMs: 600_000 } };

describe('a good release', () => {
  test('goes out wave by wave, each after its gate and soak, and completes', () => {
    const fleet = fleetOf({
      devices: 8,
      behaviour: () => GOOD,
      waves: [{ count: 2 }, { percent: 100 }],
      policy: quick,
    });
    fleet.run();
    expect(fleet.rollout.progress.state).toBe('completed');
    expect(fleet.count('committed')).toBe(8);
    expect(fleet.audit().map(({ kind }) => kind)).toEqual([
      'rollout-started',
      'wave-opened',
      'wave-opened',
      'rollout-completed',
    ]);
    expect(fleet.audit()[2]).toMatchObject({
      wave: 1,
      why: '2 of 2 reachable devices of wave 1 committed, where 2 must, and stayed so for 30 s',
    });
  });

  test('waits for its start', () => {
    const fleet = fleetOf({ devices: 2, behaviour: () => GOOD });
    const later: Rollout = { ...fleet.rollout, progress: { state: 'scheduled', startAt: START + 5_000 } };
    const early = stepRollout(later, { kind: 'tick' }, { now: START, bins: [] });
    expect(early).toMatchObject({ next: later, offers: [], nextTickAt: START + 5_000 });
    const due = stepRollout(later, { kind: 'tick' }, { now: START + 5_000, bins: [] });
    expect(due.next.progress).toMatchObject({ state: 'running', wave: 0 });
    expect(due.nextTickAt).toBe(START + 5_000);
  });

  test('passes a wave whose devices are all skipped or withdrawn', () => {
    const fleet = fleetOf({
      devices: 10,
      behaviour: () => GOOD,
      waves: [{ count: 2 }, { percent: 100 }],
      policy: quick,
    });
    fleet.deployments
      .filter(({ wave }) => wave === 0)
      .forEach((one, index) => fleet.becomes(one.id, index === 0 ? 'skipped' : 'withdrawn'));
    fleet.run();
    expect(fleet.rollout.progress.state).toBe('completed');
    expect(fleet.count('committed')).toBe(8);
    expect(fleet.audit()).toContainEqual(
      expect.objectContaining({ kind: 'wave-opened', wave: 1, why: 'nobody in wave 1 is reachable' }),
    );
  });

  test('completes without those never heard, when others of their wave committed or no wave is left to open', () => {
    const fleet = fleetOf({
      devices: 12,
      behaviour: (n) => (n % 3 === 0 ? OFFLINE : GOOD),
      waves: [{ count: 8 }, { percent: 100 }],
      policy: { ...quick, deadlines: { acceptMs: 60_000, outcomeMs: 600_000 } },
    });
    fleet.run();
    expect(fleet.rollout.progress.state).toBe('completed');
    expect([fleet.count('overdue'), fleet.count('committed')]).toEqual([4, 8]);
    const last = fleetOf({ devices: 3, behaviour: () => OFFLINE, policy: quick });
    last.run(() => false, 3_000, 60_000);
    expect([last.rollout.progress.state, last.count('overdue')]).toEqual(['completed', 3]);
  });

  test('a soak starts again when a committed device reverts', () => {
    const slow = { ...GOOD, outcomeMs: 90_000 };
    const fleet = fleetOf({
      devices: 10,
      behaviour: (n) => (n === 0 ? slow : GOOD),
      waves: [{ percent: 95 }],
      policy: quick,
    });
    const gateSince = () => (fleet.rollout.progress.state === 'running' ? fleet.rollout.progress.gateSince : null);
    fleet.run(() => gateSince() !== null);
    expect(fleet.count('committed', 'trial')).toBe(10);
    const since = gateSince();
    fleet.says(1, { outcome: 'reverted' });
    fleet.happen({ kind: 'tick' });
    expect([since, gateSince()]).toEqual([fleet.now - 1_000, null]);
  });

  test('grows from the budget upwards as evidence arrives, when it has no waves', () => {
    const fleet = fleetOf({
      devices: 2_000,
      behaviour: () => GOOD,
      policy: { ...quick, limits: { startsPerMinute: 100_000 } },
    });
    fleet.run();
    const sizes = fleet.steps
      .map((step) => step.offers.reduce((sum, { atMost }) => sum + atMost, 0))
      .filter((n) => n > 0);
    expect(sizes[0]).toBe(20);
    expect(sizes[1]).toBeGreaterThan(100);
    expect(fleet.count('committed')).toBe(2_000);
  });
});

describe('a bad release', () => {
  test('that crashes on every canary halts, and the others are never touched', () => {
    const fleet = fleetOf({ devices: 8, behaviour: () => BAD, waves: [{ count: 2 }, { percent: 100 }], policy: quick });
    fleet.run();
    expect(fleet.rollout.progress).toMatchObject({
      state: 'halted',
      wave: 0,
      reason: { kind: 'evidence', failed: 2, offered: 2 },
    });
    expect([fleet.count('reverted'), fleet.count('planned')]).toEqual([2, 6]);
    expect(fleet.steps.at(-1)!.withdraw).toEqual({ reason: 'rollout halted: evidence', planned: false });
    expect(fleet.audit().at(-1)).toMatchObject({ kind: 'rollout-halted', by: 'server', reason: { kind: 'evidence' } });
  });

  test('that fails on the single canary halts at the gate', () => {
    const fleet = fleetOf({ devices: 8, behaviour: () => BAD, waves: [{ count: 1 }, { percent: 100 }], policy: quick });
    fleet.run();
    expect(fleet.rollout.progress).toMatchObject({
      state: 'halted',
      reason: { kind: 'gate-unreachable', wave: 0, committed: 0, failed: 1, reachable: 1, needed: 1 },
    });
  });

  test.each(['wave-percentage', 'percentage-after-minimum', 'evidence'] as const)(
    'of which nobody heard in its first wave opens no other without a person (%s)',
    (rule) => {
      const fleet = fleetOf({
        devices: 50,
        behaviour: () => OFFLINE,
        waves: [{ count: 2 }, { count: 5 }, { percent: 100 }],
        policy: { ...quick, judge: { rule }, deadlines: { acceptMs: 60_000, outcomeMs: 600_000 } },
      });
      fleet.run();
      expect(fleet.rollout.progress).toMatchObject({
        state: 'halted',
        wave: 0,
        reason: { kind: 'gate-unreachable', wave: 0, reachable: 0, committed: 0, neverHeard: 2 },
      });
      expect([fleet.count('overdue'), fleet.count('planned')]).toEqual([2, 48]);

      // The person goes on without these two; the next wave of which nobody is heard is another decision.
      fleet.happen({ kind: 'resume', by: 'alice', note: 'both canaries are in the warehouse' });
      expect(fleet.audit().at(-1)).toMatchObject({ kind: 'rollout-resumed', acknowledged: 0, neverHeard: 2 });
      fleet.run();
      expect(fleet.rollout.progress).toMatchObject({ state: 'halted', wave: 1, reason: { neverHeard: 3 } });
      expect(fleet.count('planned')).toBe(45);
    },
  );

  test('is not taken for unheard once one of the wave speaks after all', () => {
    const fleet = fleetOf({
      devices: 10,
      behaviour: () => OFFLINE,
      waves: [{ count: 2 }, { percent: 100 }],
      policy: { ...quick, deadlines: { acceptMs: 60_000, outcomeMs: 600_000 } },
    });
    fleet.run();
    const [late] = fleet.deployments.filter(({ state }) => state === 'overdue');
    fleet.says(Number(late!.device.slice(3)), { outcome: 'committed' });
    fleet.happen({ kind: 'resume', by: 'alice', note: 'one came back' });
    fleet.run(() => fleet.count('planned') === 0);
    expect(fleet.audit()).toContainEqual(
      expect.objectContaining({ kind: 'wave-opened', why: expect.stringContaining('1 of 1 reachable devices') }),
    );
  });

  test('that silences devices holds first, and halts when they are overdue', () => {
    const fleet = fleetOf({ devices: 200, behaviour: () => SILENT, policy: quick });
    fleet.run(() => fleet.now >= START + 300_000);
    expect(fleet.rollout.progress).toMatchObject({ state: 'running', hold: { kind: 'judge', group: 'all/gw2' } });
    expect(fleet.count('trial')).toBe(20);
    fleet.run();
    expect(fleet.rollout.progress).toMatchObject({ state: 'halted' });
    expect(fleet.count('overdue', 'trial')).toBe(20);
  });

  test('that breaks one compatible only halts on the evidence of that compatible', () => {
    const fleet = fleetOf({
      devices: 400,
      behaviour: (n) => (n % 10 === 0 ? BAD : GOOD),
      compatible: (n) => (n % 10 === 0 ? 'gw3' : 'gw2'),
      policy: { ...quick, gate: { successShare: 0.5, soakMs: 0 } },
    });
    fleet.run();
    expect(fleet.rollout.progress).toMatchObject({ state: 'halted', reason: { kind: 'evidence', group: 'all/gw3' } });
  });

  test('withdraws at a halt what was offered and not activated, and keeps ticking until the rest has spoken', () => {
    const fleet = fleetOf({ devices: 20, behaviour: (n) => (n < 8 ? BAD : n < 14 ? SILENT : OFFLINE), policy: quick });
    fleet.run();
    expect(fleet.rollout.progress.state).toBe('halted');
    expect(fleet.count('offered', 'planned')).toBe(0);
    expect(fleet.count('withdrawn')).toBeGreaterThan(0);
    expect(fleet.count('trial')).toBeGreaterThan(0);
    expect(fleet.happen({ kind: 'tick' }).nextTickAt).toBe(fleet.now + 10_000);
    fleet.pass(600_000);
    expect(fleet.happen({ kind: 'tick' }).nextTickAt).toBeNull();
    expect(fleet.rollout.progress.state).toBe('halted');
  });

  test('is halted by the simple rules too, when they are chosen', () => {
    const mixed = (n: number) => (n % 5 === 0 ? BAD : GOOD);
    const gate = { successShare: 0, soakMs: 0 };
    const waved = fleetOf({
      devices: 100,
      behaviour: mixed,
      policy: { judge: { rule: 'wave-percentage', percent: 10 }, gate, limits: { atRiskMax: 20 } },
    });
    waved.run();
    expect(waved.rollout.progress).toMatchObject({ state: 'halted', reason: { kind: 'percentage', decided: 100 } });
    const minimum = fleetOf({
      devices: 100,
      behaviour: mixed,
      policy: {
        judge: { rule: 'percentage-after-minimum', percent: 10, minimum: 15 },
        gate,
        limits: { atRiskMax: 20 },
      },
    });
    minimum.run();
    expect(minimum.rollout.progress).toMatchObject({
      state: 'halted',
      reason: { kind: 'percentage', limitPercent: 10 },
    });
  });
});

describe('a person', () => {
  const running = () => {
    const fleet = fleetOf({
      devices: 30,
      behaviour: () => GOOD,
      waves: [{ count: 4 }, { percent: 100 }],
      policy: quick,
    });
    fleet.run(() => fleet.count('trial') > 0);
    return fleet;
  };

  test('pauses and resumes: nobody new is offered in between, and the soak starts anew', () => {
    const fleet = running();
    const paused = fleet.happen({ kind: 'pause', by: 'alice', note: 'storm' });
    expect(paused.next.progress).toMatchObject({ state: 'paused', wave: 0, by: 'alice', note: 'storm' });
    expect(paused.withdraw).toBeNull();
    for (let n = 0; n < 200; n++) {
      expect(fleet.happen({ kind: 'tick' }).offers).toEqual([]);
      fleet.pass(1_000);
    }
    expect(fleet.count('committed')).toBe(4);
    const resumed = fleet.happen({ kind: 'resume', by: 'bob', note: '' });
    expect(resumed.next.progress).toMatchObject({ state: 'running', wave: 0, gateSince: null, waveSince: fleet.now });
    expect(resumed.nextTickAt).toBe(fleet.now);
    fleet.run();
    expect(fleet.rollout.progress.state).toBe('completed');
  });

  test('does not hide a bad release by pausing: what is on its way may still halt it', () => {
    const fleet = fleetOf({ devices: 30, behaviour: () => BAD, policy: quick });
    fleet.run(() => fleet.count('trial') > 0);
    fleet.happen({ kind: 'pause', by: 'alice', note: '' });
    fleet.run();
    expect(fleet.rollout.progress.state).toBe('halted');
  });

  test('aborts: everything not on trial is withdrawn, trials finish, and nothing is ever offered again', () => {
    const fleet = running();
    const step = fleet.happen({ kind: 'abort', by: 'alice', note: 'wrong release' });
    expect(step.withdraw).toEqual({ reason: 'rollout aborted', planned: true });
    expect([fleet.count('withdrawn'), fleet.count('trial')]).toEqual([26, 4]);
    expect(step.nextTickAt).not.toBeNull();
    fleet.pass(60_000);
    expect(fleet.count('committed')).toBe(4);
    expect(fleet.happen({ kind: 'tick' }).offers).toEqual([]);
    // The four that committed are watched a while longer.
    fleet.pass(2 * 3_600_000);
    expect(fleet.happen({ kind: 'tick' })).toMatchObject({ offers: [], nextTickAt: null });
    expect(fleet.happen({ kind: 'resume', by: 'alice', note: 'why not' }).refused).toMatchObject({ code: 'conflict' });
  });

  test('resumes after a halt only with a note, which sets the failures so far aside', () => {
    const fleet = fleetOf({
      devices: 30,
      behaviour: (n) => (n < 3 ? BAD : GOOD),
      policy: { ...quick, judge: { rule: 'evidence', budget: 2 } },
    });
    fleet.run();
    expect(fleet.rollout.progress.state).toBe('halted');
    expect(fleet.happen({ kind: 'resume', by: 'alice', note: ' ' }).refused).toMatchObject({ code: 'invalid-request' });
    expect(fleet.rollout.progress.state).toBe('halted');
    for (let tries = 0; tries < 3 && fleet.rollout.progress.state === 'halted'; tries++) {
      fleet.happen({ kind: 'resume', by: 'alice', note: 'known bad flash' });
      expect(fleet.rollout.progress).toMatchObject({ state: 'running', acknowledged: [{ cohort: 'all', wave: 0 }] });
      fleet.run();
    }
    expect(fleet.rollout.progress.state).toBe('completed');
    expect(fleet.audit()).toContainEqual(
      expect.objectContaining({ kind: 'rollout-resumed', note: 'known bad flash', by: 'alice' }),
    );
  });

  test('resumes after a halt with those whose offers the halt withdrew: they are offered again, at the judge’s pace', () => {
    const fleet = fleetOf({
      devices: 60,
      behaviour: (n) => (n < 3 ? BAD : n < 40 ? { ...GOOD, acceptMs: 120_000 } : GOOD),
      policy: { ...quick, judge: { rule: 'evidence', budget: 2 } },
    });
    for (let halts = 0; halts < 4 && fleet.rollout.progress.state !== 'completed'; halts++) {
      fleet.run();
      if (fleet.rollout.progress.state !== 'halted') break;
      const before = { planned: fleet.count('planned'), withdrawn: fleet.count('withdrawn') };
      const step = fleet.happen({ kind: 'resume', by: 'alice', note: 'known bad flash' });
      expect([step.replan, step.offers]).toEqual([true, []]);
      expect([fleet.count('planned'), fleet.count('withdrawn')]).toEqual([before.planned + before.withdrawn, 0]);
    }
    expect(fleet.rollout.progress.state).toBe('completed');
    expect([fleet.count('withdrawn'), fleet.count('committed', 'reverted')]).toEqual([0, 60]);
    expect(fleet.steps.filter(({ withdraw }) => withdraw !== null).length).toBeGreaterThan(0);
  });

  test('resumes from a pause without planning anything anew, since a pause withdraws nothing', () => {
    const fleet = running();
    fleet.happen({ kind: 'pause', by: 'alice', note: '' });
    expect(fleet.happen({ kind: 'resume', by: 'alice', note: '' }).replan).toBe(false);
  });

  test('an acknowledged failure that turns out well after all excuses no new one', () => {
    const fleet = fleetOf({
      devices: 300,
      behaviour: (n) => (n < 60 ? SILENT : GOOD),
      policy: { ...quick, gate: { successShare: 0.5, soakMs: 0 } },
    });
    fleet.run();
    expect(fleet.rollout.progress.state).toBe('halted');
    fleet.happen({ kind: 'resume', by: 'alice', note: 'the site had no power' });
    const excused = () =>
      'acknowledged' in fleet.rollout.progress
        ? (fleet.rollout.progress.acknowledged ?? []).reduce((sum, { failed }) => sum + failed, 0)
        : 0;
    const before = excused();
    expect(before).toBe(fleet.count('overdue'));
    const back = fleet.deployments.filter(({ state }) => state === 'overdue').slice(0, 3);
    for (const { device } of back) fleet.says(Number(device.slice(3)), { outcome: 'committed' });
    fleet.happen({ kind: 'tick' });
    expect(excused()).toBe(before - 3);
    fleet.happen({ kind: 'pause', by: 'alice', note: '' });
    for (const { device } of fleet.deployments.filter(({ state }) => state === 'overdue')) {
      fleet.says(Number(device.slice(3)), { outcome: 'committed' });
    }
    fleet.happen({ kind: 'tick' });
    expect([excused(), fleet.rollout.progress.state]).toEqual([0, 'paused']);
  });

  test('who withdraws the release halts it for good', () => {
    const fleet = running();
    const step = fleet.happen({ kind: 'release-withdrawn', by: 'carol' });
    expect(step.next.progress).toMatchObject({ state: 'halted', reason: { kind: 'release-withdrawn', by: 'carol' } });
    expect(fleet.happen({ kind: 'resume', by: 'alice', note: 'please' }).refused).toMatchObject({ code: 'conflict' });
    expect(fleet.happen({ kind: 'abort', by: 'alice', note: '' }).next.progress.state).toBe('aborted');
  });
});

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
      policy: { ...quick, judge: { rule: 'wave-percentage' }, limits: { startsPerMinute: 60 } },
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

  // It was whoever's turn it was: another one each second, each saved, and each change of kind a decision to keep.
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
    const fleet = fleetOf({ devices: 60, behaviour: () => GOOD, policy: { ...quick, limits: { atRiskMax: 7 } } });
    let most = 0;
    fleet.run(() => {
      most = Math.max(most, fleet.count('offered', 'trial'));
      return false;
    });
    expect(most).toBe(7);
    expect(fleet.count('committed')).toBe(60);
  });

  test('devices that are offered but have not answered use up what the judge allows', () => {
    const fleet = fleetOf({ devices: 100, behaviour: () => OFFLINE, policy: quick });
    fleet.run(() => fleet.now > START + 10_000);
    expect(fleet.count('offered')).toBe(20);
    expect(fleet.rollout.progress).toMatchObject({ hold: { kind: 'judge', risk: 0, unaccepted: 20 } });
  });
});

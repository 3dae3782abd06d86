/** What becomes of a good release, and of a bad one, when no one intervenes. */
import { describe, expect, test } from 'vitest';
import type { Rollout } from '#server/domain/rollout/rollout.ts';
import { stepRollout } from '#server/domain/rollout/rollout-step.ts';
import { BAD, fleetOf, GOOD, OFFLINE, QUICK, SILENT, START } from './fleet.ts';

describe('a good release', () => {
  test('goes out wave by wave, each after its gate and soak, and completes', () => {
    const fleet = fleetOf({
      devices: 8,
      behaviour: () => GOOD,
      waves: [{ count: 2 }, { percent: 100 }],
      policy: QUICK,
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
      policy: QUICK,
    });
    fleet.deployments
      .filter(({ wave }) => wave === 0)
      .forEach((one, index) => fleet.becomes(one.id, index === 0 ? 'skipped' : 'withdrawn'));
    fleet.run();
    expect(fleet.rollout.progress.state).toBe('completed');
    expect(fleet.count('committed')).toBe(8);
    expect(fleet.audit()).toContainEqual(
      expect.objectContaining({ kind: 'wave-opened', wave: 1, why: 'no one in wave 1 is reachable' }),
    );
  });

  test('completes without those never heard, when others of their wave committed or no wave is left to open', () => {
    const fleet = fleetOf({
      devices: 12,
      behaviour: (n) => (n % 3 === 0 ? OFFLINE : GOOD),
      waves: [{ count: 8 }, { percent: 100 }],
      policy: { ...QUICK, deadlines: { acceptMs: 60_000, outcomeMs: 600_000 } },
    });
    fleet.run();
    expect(fleet.rollout.progress.state).toBe('completed');
    expect([fleet.count('overdue'), fleet.count('committed')]).toEqual([4, 8]);
    const last = fleetOf({ devices: 3, behaviour: () => OFFLINE, policy: QUICK });
    last.run(() => false, 3_000, 60_000);
    expect([last.rollout.progress.state, last.count('overdue')]).toEqual(['completed', 3]);
  });

  test('a soak starts again when a committed device reverts', () => {
    const slow = { ...GOOD, outcomeMs: 90_000 };
    const fleet = fleetOf({
      devices: 10,
      behaviour: (n) => (n === 0 ? slow : GOOD),
      waves: [{ percent: 95 }],
      policy: QUICK,
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
      policy: { ...QUICK, limits: { startsPerMinute: 100_000 } },
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
    const fleet = fleetOf({ devices: 8, behaviour: () => BAD, waves: [{ count: 2 }, { percent: 100 }], policy: QUICK });
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
    const fleet = fleetOf({ devices: 8, behaviour: () => BAD, waves: [{ count: 1 }, { percent: 100 }], policy: QUICK });
    fleet.run();
    expect(fleet.rollout.progress).toMatchObject({
      state: 'halted',
      reason: { kind: 'gate-unreachable', wave: 0, committed: 0, failed: 1, reachable: 1, needed: 1 },
    });
  });

  test.each(['wave-percentage', 'percentage-after-minimum', 'evidence'] as const)(
    'of which no one heard in its first wave opens no other without a person (%s)',
    (rule) => {
      const fleet = fleetOf({
        devices: 50,
        behaviour: () => OFFLINE,
        waves: [{ count: 2 }, { count: 5 }, { percent: 100 }],
        policy: { ...QUICK, judge: { rule }, deadlines: { acceptMs: 60_000, outcomeMs: 600_000 } },
      });
      fleet.run();
      expect(fleet.rollout.progress).toMatchObject({
        state: 'halted',
        wave: 0,
        reason: { kind: 'gate-unreachable', wave: 0, reachable: 0, committed: 0, neverHeard: 2 },
      });
      expect([fleet.count('overdue'), fleet.count('planned')]).toEqual([2, 48]);

      // The person goes on without these two; the next wave of which no one is heard is another decision.
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
      policy: { ...QUICK, deadlines: { acceptMs: 60_000, outcomeMs: 600_000 } },
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
    const fleet = fleetOf({ devices: 200, behaviour: () => SILENT, policy: QUICK });
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
      policy: { ...QUICK, gate: { successShare: 0.5, soakMs: 0 } },
    });
    fleet.run();
    expect(fleet.rollout.progress).toMatchObject({ state: 'halted', reason: { kind: 'evidence', group: 'all/gw3' } });
  });

  test('withdraws at a halt what was offered and not activated, and keeps ticking until the rest has spoken', () => {
    const fleet = fleetOf({ devices: 20, behaviour: (n) => (n < 8 ? BAD : n < 14 ? SILENT : OFFLINE), policy: QUICK });
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

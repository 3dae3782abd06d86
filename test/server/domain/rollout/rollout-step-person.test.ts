/** What people make of a rollout that goes on. */
import { describe, expect, test } from 'vitest';
import { BAD, fleetOf, GOOD, QUICK, SILENT } from './fleet.ts';

describe('a person', () => {
  const running = () => {
    const fleet = fleetOf({
      devices: 30,
      behaviour: () => GOOD,
      waves: [{ count: 4 }, { percent: 100 }],
      policy: QUICK,
    });
    fleet.run(() => fleet.count('trial') > 0);
    return fleet;
  };

  test('pauses and resumes: no one new is offered in between, and the soak starts again', () => {
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
    const fleet = fleetOf({ devices: 30, behaviour: () => BAD, policy: QUICK });
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
      policy: { ...QUICK, judge: { rule: 'evidence', budget: 2 } },
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
      policy: { ...QUICK, judge: { rule: 'evidence', budget: 2 } },
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

  test('resumes from a pause without planning anything again, since a pause withdraws nothing', () => {
    const fleet = running();
    fleet.happen({ kind: 'pause', by: 'alice', note: '' });
    expect(fleet.happen({ kind: 'resume', by: 'alice', note: '' }).replan).toBe(false);
  });

  test('an acknowledged failure that turns out well after all excuses no new one', () => {
    const fleet = fleetOf({
      devices: 300,
      behaviour: (n) => (n < 60 ? SILENT : GOOD),
      policy: { ...QUICK, gate: { successShare: 0.5, soakMs: 0 } },
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

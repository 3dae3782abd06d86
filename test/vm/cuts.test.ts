import { expect, onTestFinished, test } from 'vitest';
import { randomOf } from '#test/simulation/random.ts';
import { CUT_STATES, openCutPlan } from './cuts.ts';

const planOf = (seed: number, allowed: (owed: boolean) => boolean = (owed) => !owed) => {
  const cuts: string[] = [];
  const plan = openCutPlan(randomOf(seed, 'cuts'), (why, owed) => {
    if (!allowed(owed)) return false;
    cuts.push(why);
    return true;
  });
  onTestFinished(() => plan.disarm());
  return { plan, cuts };
};
const enough = (plan: ReturnType<typeof planOf>['plan']): void => {
  for (let count = 0; count < 100; count += 1) {
    plan.drive({ kind: 'write', offset: 0, bytes: 512 });
    plan.drive({ kind: 'flush' });
  }
};

test('in every state power is cut by some seed: at once, and at a write or flush after it', () => {
  for (const state of CUT_STATES) {
    const kinds = new Set<string>();
    for (let seed = 0; seed < 200; seed += 1) {
      const { plan, cuts } = planOf(seed);
      plan.entered(state);
      if (cuts.length > 0) kinds.add('at once');
      enough(plan);
      kinds.add(/write|flush/.exec(cuts[0] ?? '')?.[0] ?? '');
      plan.disarm();
    }
    expect([...kinds]).toEqual(expect.arrayContaining(['at once', 'write', 'flush']));
  }
});

test('a state in which power never went is cut at once, and if that may not be, the next time', () => {
  let allowed = false;
  const { plan, cuts } = planOf(1, (owed) => owed && allowed);
  plan.entered('trial');
  expect(cuts).toEqual([]);
  allowed = true;
  plan.begin();
  plan.entered('trial');
  plan.entered('committing');
  plan.entered('trial');
  expect(cuts).toEqual(['trial', 'committing']);
});

test('a state is not cut forever, so that every rollout comes to its end', () => {
  for (let seed = 0; seed < 50; seed += 1) {
    const { plan, cuts } = planOf(seed, () => true);
    for (let round = 0; round < 20; round += 1) {
      plan.entered('fetching');
      enough(plan);
      plan.disarm();
    }
    expect(cuts.length).toBeLessThanOrEqual(2);
  }
});

test('what is disarmed does not cut', () => {
  for (let seed = 0; seed < 50; seed += 1) {
    const { plan, cuts } = planOf(seed);
    plan.entered('ready');
    const before = cuts.length;
    plan.disarm();
    enough(plan);
    expect(cuts.length).toBe(before);
  }
});

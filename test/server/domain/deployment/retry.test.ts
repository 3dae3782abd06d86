import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { countOutcomes, type DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { type DeviceReport, stepDeployment } from '#server/domain/deployment/deployment-step.ts';
import { RETRIED } from '#server/domain/deployment/retry.ts';
import { AGENT_STATES, DEVICE_ERRORS, type DeviceErrorCode } from '#shared/deployment.ts';
import { Policy } from '#shared/policy.ts';
import { planned, T0 } from '#test/server/store/records.ts';

const policy = Policy.parse({ retries: { max: 2, coolDownMs: 60_000 }, deadlines: { acceptMs: 1_000_000 } });
const offered = planned('r1', 'gw-1', { state: 'offered', offeredAt: T0, deadlineAt: T0 + 1_000_000 });
const fetching: DeploymentRecord = { ...offered, state: 'fetching', acceptedAt: T0 };
const failed = (code: DeviceErrorCode): DeviceReport => ({ outcome: 'failed', error: { code, message: 'so it was' } });
const say = (deployment: DeploymentRecord, word: DeviceReport, now = T0 + 5) =>
  stepDeployment(deployment, word, now, policy);

test('want of network is tried again after a cool-down, which doubles, and not forever', () => {
  const once = say(fetching, failed('FETCH_FAILED'));
  expect(once.next).toMatchObject({
    state: 'planned',
    acceptedAt: null,
    deadlineAt: null,
    error: { code: 'FETCH_FAILED' },
  });
  expect(once.next.attempts).toMatchObject({ ended: 1, failed: 1, notBefore: T0 + 60_005 });
  expect(once.audit).toMatchObject([{ kind: 'retry-planned', error: 'FETCH_FAILED' }]);
  const twice = say({ ...once.next, state: 'fetching', acceptedAt: T0 }, failed('NO_SPACE'));
  expect(twice.next.attempts).toMatchObject({ ended: 2, failed: 2, notBefore: T0 + 120_005 });
  expect(say({ ...twice.next, state: 'fetching' }, failed('NO_SPACE')).next.state).toBe('failed');
});

test.each(['TARGET_HASH', 'DELEGATED_SIGNATURE', 'SELFTEST_FAILED', 'HOOK_FAILED', 'DOWNGRADE'] as const)(
  '%s is final at once',
  (code) => {
    expect(say(fetching, failed(code)).next.state).toBe('failed');
  },
);

test('whatever failed after the release may have booted is final', () => {
  expect(say({ ...fetching, state: 'trial' }, failed('FETCH_FAILED')).next.state).toBe('failed');
  expect(say({ ...fetching, state: 'withdrawn' }, failed('FETCH_FAILED')).next.state).toBe('failed');
});

test('an offer that its user let expire is repeated, and uses up no retry', () => {
  const { attempts } = say(fetching, failed('INSTRUCTION_EXPIRED')).next;
  expect(attempts).toMatchObject({ ended: 1, failed: 0, notBefore: T0 + 60_005 });
});

test('a device that its user has wait is not at risk: it has its time to accept, and no outcome is due', () => {
  const accepted = say(offered, { state: 'accepted' }).next;
  expect(accepted.acceptedAt).toBe(T0 + 5);
  const waiting = say(accepted, { state: 'waiting' }, T0 + 500_000).next;
  expect(waiting).toMatchObject({ state: 'offered', acceptedAt: null, deadlineAt: T0 + 1_500_000 });
  expect(say(waiting, { state: 'waiting' }, T0 + 600_000).next).toBe(waiting);
  expect(say(waiting, { state: 'fetching' }, T0 + 700_000).next).toMatchObject({ acceptedAt: T0 + 700_000 });
});

test('withdrawn and on trial in turn is believed a few times, not forever', () => {
  let deployment: DeploymentRecord = { ...fetching, state: 'withdrawn' };
  let trials = 0;
  for (let turn = 0; turn < 10; turn += 1) {
    const trial = say(deployment, { state: 'trial' }).next;
    if (trial.state === 'trial') trials += 1;
    deployment = say(trial, { state: 'withdrawn' }).next;
  }
  expect(trials).toBe(3);
  expect(say(deployment, { outcome: 'committed' }).next.state).toBe('committed');
});

test('no history of words is repeated without end, and only what may be repeated is', () => {
  const word = fc.oneof(
    fc.constantFrom(...AGENT_STATES).map((state): DeviceReport => ({ state })),
    fc.constantFrom(...DEVICE_ERRORS).map(failed),
  );
  fc.assert(
    fc.property(fc.array(word, { maxLength: 60 }), (words) => {
      let deployment = offered;
      for (const one of words) {
        const { next } = say(deployment, one);
        const code = next.error?.code;
        const mayRepeat = code === 'INSTRUCTION_EXPIRED' || (code !== undefined && RETRIED.has(code));
        expect(next.state !== 'planned' || mayRepeat).toBe(true);
        expect(next.attempts?.failed ?? 0).toBeLessThanOrEqual(2);
        // The store offers it again.
        deployment = next.state === 'planned' ? { ...next, state: 'offered' } : next;
      }
    }),
  );
});

test('a device that fails and fails again is tried a bounded number of times, waits longer each time up to a day, and counts once', () => {
  const policies = fc.record({
    max: fc.integer({ min: 0, max: 100 }),
    coolDownMs: fc.integer({ min: 1_000, max: 100_000_000 }),
  });
  const codes = fc.array(fc.constantFrom(...RETRIED), { minLength: 1, maxLength: 5 });
  const steps = fc.constantFrom('accepted' as const, 'fetching' as const, 'verified' as const, 'ready' as const);
  fc.assert(
    fc.property(policies, codes, steps, fc.nat(3), (retries, causes, step, repeats) => {
      const under = { ...policy, retries };
      let deployment: DeploymentRecord = offered;
      let now = T0;
      const waits: number[] = [];
      while (deployment.state === 'offered') {
        expect(waits.length).toBeLessThanOrEqual(retries.max);
        const attempt = waits.length + 1;
        deployment = stepDeployment(deployment, { state: step, attempt }, now, under).next;
        const word = { ...failed(causes[waits.length % causes.length]!), attempt };
        // Told until it is acknowledged, which changes nothing more.
        for (let n = 0; n <= repeats; n += 1) deployment = stepDeployment(deployment, word, now, under).next;
        const bins = countOutcomes([deployment], 60_000);
        expect(bins.map(({ outcome, devices }) => [outcome, devices])).toEqual([
          [attempt > retries.max ? 'failed' : 'planned', 1],
        ]);
        if (deployment.state !== 'planned') break;
        waits.push(deployment.attempts!.notBefore! - now);
        now = deployment.attempts!.notBefore!;
        // As the store offers it again; what is repeated even now is about what is over.
        deployment = {
          ...deployment,
          state: 'offered',
          offeredAt: now,
          deadlineAt: now + 1_000_000,
          offers: attempt + 1,
        };
        expect(stepDeployment(deployment, word, now, under).next).toBe(deployment);
      }
      expect(deployment.state).toBe('failed');
      expect(waits).toHaveLength(retries.max);
      expect(waits).toEqual([...waits].sort((one, other) => one - other));
      for (const wait of waits) expect(wait).toBeLessThanOrEqual(Math.max(retries.coolDownMs, 86_400_000));
      expect(waits[1] ?? 0).toBeLessThanOrEqual(2 * retries.coolDownMs);
    }),
  );
});

import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import type { DeploymentRecord } from '#server/domain/deployment.ts';
import { type DeviceWord, stepDeployment } from '#server/domain/deployment-step.ts';
import { RETRIED } from '#server/domain/retry.ts';
import { AGENT_STATES, DEVICE_ERRORS, type DeviceErrorCode } from '#shared/deployment.ts';
import { Policy } from '#shared/policy.ts';
import { planned, T0 } from '#test/store/records.ts';

const policy = Policy.parse({ retries: { max: 2, coolDownMs: 60_000 }, deadlines: { acceptMs: 1_000_000 } });
const offered = planned('r1', 'gw-1', { state: 'offered', offeredAt: T0, deadlineAt: T0 + 1_000_000 });
const fetching: DeploymentRecord = { ...offered, state: 'fetching', acceptedAt: T0 };
const failed = (code: DeviceErrorCode): DeviceWord => ({ outcome: 'failed', error: { code, message: 'so it was' } });
const say = (deployment: DeploymentRecord, word: DeviceWord, now = T0 + 5) =>
  stepDeployment(deployment, word, now, policy);

test('want of network is tried again after a cool-down, which doubles, and not for ever', () => {
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

test('withdrawn and on trial in turn is believed a few times, not for ever', () => {
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
    fc.constantFrom(...AGENT_STATES).map((state): DeviceWord => ({ state })),
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

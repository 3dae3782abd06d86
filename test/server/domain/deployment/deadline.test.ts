import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { deadlineOf } from '#server/domain/deployment/deadline.ts';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { type DeviceReport, stepDeployment } from '#server/domain/deployment/deployment-step.ts';
import { AGENT_STATES, type AgentState } from '#shared/deployment.ts';
import { Policy } from '#shared/policy.ts';
import { planned, T0 } from '#test/server/store/records.ts';

const MINUTE = 60_000;
const deadlines = {
  outcomeMs: 60 * MINUTE,
  fetchMs: 20 * MINUTE,
  installMs: 5 * MINUTE,
  readyMs: 2 * MINUTE,
  trialMs: 3 * MINUTE,
};
const policy = Policy.parse({ deadlines });
const offered = planned('r1', 'gw-1', { state: 'offered', offeredAt: T0, deadlineAt: T0 + 86_400_000 });
const say = (from: DeploymentRecord, state: AgentState, now: number, under = policy) =>
  stepDeployment(from, { state }, now, under).next;

test('each state has its own time: fetching from acceptance, every later one from when it was entered', () => {
  const accepted = say(offered, 'accepted', T0 + MINUTE);
  expect(accepted.deadlineAt).toBe(T0 + 21 * MINUTE);
  const fetching = say(accepted, 'fetching', T0 + 15 * MINUTE);
  expect(fetching.deadlineAt).toBe(T0 + 21 * MINUTE);
  const installing = say(fetching, 'verified', T0 + 20 * MINUTE);
  expect(installing.deadlineAt).toBe(T0 + 25 * MINUTE);
  const ready = say(installing, 'ready', T0 + 21 * MINUTE);
  expect(ready.deadlineAt).toBe(T0 + 23 * MINUTE);
  const trial = say(ready, 'activating', T0 + 22 * MINUTE);
  expect(trial.deadlineAt).toBe(T0 + 25 * MINUTE);
  expect(say(trial, 'committing', T0 + 24 * MINUTE)).toBe(trial);
});

test('the time of the whole deployment bounds every state', () => {
  const late = { ...offered, acceptedAt: T0, state: 'ready' as const, stateAt: T0 + 58 * MINUTE };
  expect(say(late, 'trial', T0 + 59 * MINUTE).deadlineAt).toBe(T0 + 60 * MINUTE);
});

test('without limits of their own all states have the time of the whole deployment, as {} says', () => {
  const plain = Policy.parse({});
  let deployment = say(offered, 'accepted', T0, plain);
  for (const state of ['fetching', 'verified', 'ready', 'trial'] as const) {
    expect(deployment.deadlineAt).toBe(T0 + 60 * MINUTE);
    deployment = say(deployment, state, T0 + 30 * MINUTE, plain);
  }
});

test('a server that was away moves the end of the deployment, not the time of a state that is entered afterwards', () => {
  const excused = { ...offered, state: 'ready' as const, acceptedAt: T0, graceUntil: T0 + 120 * MINUTE };
  expect(say(excused, 'trial', T0 + 100 * MINUTE).deadlineAt).toBe(T0 + 103 * MINUTE);
  expect(say(excused, 'trial', T0 + 100 * MINUTE, Policy.parse({})).deadlineAt).toBe(T0 + 120 * MINUTE);
});

test('a device that is held back has its time to activate from when it may', () => {
  const held = { install: null, activate: T0 + 600 * MINUTE };
  const installing = { ...offered, state: 'installing' as const, acceptedAt: T0 };
  const { next } = stepDeployment(installing, { state: 'ready' }, T0 + MINUTE, policy, held);
  expect(next).toMatchObject({ heldUntil: T0 + 600 * MINUTE, deadlineAt: T0 + 602 * MINUTE });
  expect(say(next, 'trial', T0 + 601 * MINUTE)).toMatchObject({
    acceptedAt: T0 + 601 * MINUTE,
    deadlineAt: T0 + 604 * MINUTE,
  });
});

test('a limit longer than the whole deployment is refused, and says so', () => {
  const parsed = Policy.safeParse({ deadlines: { fetchMs: 2 * 3_600_000 } });
  expect(parsed.error?.issues).toMatchObject([{ path: ['deadlines', 'fetchMs'] }]);
  expect(parsed.error?.issues[0]?.message).toBe(
    'must be at most outcomeMs (3600000), which bounds the whole deployment',
  );
  expect(Policy.safeParse({ deadlines: { fetchMs: 7_200_000, outcomeMs: 7_200_000 } }).success).toBe(true);
});

test('whatever is said, a device that is on the way has a deadline: never later than the whole deployment, never before its state has had its time', () => {
  const limit = fc.option(fc.integer({ min: 1, max: 60 * MINUTE }), { nil: undefined });
  const words = fc.array(fc.tuple(fc.constantFrom(...AGENT_STATES), fc.nat(10 * MINUTE)), { maxLength: 12 });
  fc.assert(
    fc.property(
      fc.record({ fetchMs: limit, installMs: limit, readyMs: limit, trialMs: limit }),
      words,
      (limits, all) => {
        const under = { ...policy, deadlines: { ...Policy.parse({}).deadlines, ...limits } } as Policy;
        let deployment = offered;
        let now = T0;
        for (const [state, later] of all) {
          now += later;
          const word: DeviceReport = { state };
          deployment = stepDeployment(deployment, word, now, under).next;
          const { acceptedAt, stateAt, deadlineAt, decidedAt } = deployment;
          expect(deadlineAt === null).toBe(decidedAt !== null);
          if (acceptedAt === null || deadlineAt === null) continue;
          expect(deadlineAt).toBeLessThanOrEqual(acceptedAt + under.deadlines.outcomeMs);
          expect(deadlineAt).toBe(deadlineOf(deployment.state, { acceptedAt, stateAt }, under.deadlines));
        }
      },
    ),
  );
});

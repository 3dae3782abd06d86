import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { AuditEvent } from '#server/domain/audit.ts';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import {
  giveUp,
  type Moved,
  offer,
  replan,
  SERVER_MOVES,
  skip,
  takeOver,
  withdraw,
  withdrawPlanned,
} from '#server/domain/deployment/server-moves.ts';
import { endWait, grantGrace, waitUntil } from '#server/domain/deployment/waits.ts';
import { DEPLOYMENT_STATES } from '#shared/deployment.ts';
import { Id } from '#shared/ids.ts';
import { planned, T0 } from '#test/server/store/records.ts';

const NOW = T0 + 3_600_000;
const FIRST = Id.parse('r9');
const time = fc.integer({ min: T0, max: NOW });
/** A deployment in one of these states, with whatever times. */
const deploymentIn = (states: readonly DeploymentRecord['state'][]): fc.Arbitrary<DeploymentRecord> =>
  fc
    .record({
      state: fc.constantFrom(...states),
      offeredAt: fc.option(time),
      acceptedAt: fc.option(time),
      decidedAt: fc.option(time),
      stateAt: time,
      deadlineAt: fc.option(time),
      heldUntil: fc.option(time),
      device: fc.constantFrom('gw-1', 'gw-2', 'gw-3'),
      rollout: fc.constantFrom('r1', 'r2'),
    })
    .map(({ device, rollout, ...more }) => planned(rollout, device, more));
const several = (states: readonly DeploymentRecord['state'][]) => fc.array(deploymentIn(states), { maxLength: 6 });
const heard = fc.record({ online: fc.boolean(), lastSeenAt: fc.option(time) });

const byText = (one: string, other: string): number => (one < other ? -1 : one > other ? 1 : 0);
const devicesOf = (event: AuditEvent): Id[] =>
  'devices' in event && Array.isArray(event.devices) ? event.devices : [];

const MOVES: Record<keyof typeof SERVER_MOVES, (from: readonly DeploymentRecord[]) => Moved> = {
  offer: (from) => offer(from, { acceptBy: NOW + 1, wave: 0 }, NOW),
  skip: (from) => skip(from, NOW),
  withdraw: (from) => withdraw(from, { by: 'halt', reason: 'halted' }, NOW),
  'withdraw planned': (from) => withdrawPlanned(from, NOW),
  'shut out': (from) => withdraw(from, { by: 'rejection', reason: 'device rejected' }, NOW),
  replace: (from) => withdraw(from, { by: 'replacement', reason: 'device replaced' }, NOW),
  replan: (from) => replan(from, NOW),
  'take over': (from) => takeOver(from, FIRST, NOW),
  'give up': (from) => {
    const late = from.map((deployment) => ({ deployment, heard: { online: false, lastSeenAt: null } }));
    const groups = giveUp(late, 'server', NOW);
    return { moves: groups.flatMap(({ moves }) => moves), audit: groups.flatMap(({ audit }) => audit) };
  },
};

describe.each(Object.entries(SERVER_MOVES))('%s', (name, { from, to }) => {
  const move = MOVES[name as keyof typeof SERVER_MOVES];
  test('leads where the table says, keeps revisions, and names each device once in its rollout', () => {
    fc.assert(
      fc.property(several(from), (deployments) => {
        const { moves, audit } = move(deployments);
        expect(moves.map(({ next }) => next.state)).toEqual(deployments.map(() => to));
        expect(moves.every(({ next }) => next.stateAt === NOW)).toBe(true);
        const before = new Map(deployments.map(({ id, revision }) => [id, revision]));
        expect(moves.every(({ next }) => next.revision === before.get(next.id))).toBe(true);
        const named = audit.flatMap((event) =>
          devicesOf(event).map((device) => `${'rollout' in event ? event.rollout : ''} ${device}`),
        );
        const all = deployments.map(({ rollout, device }) => `${rollout} ${device}`);
        expect(named.toSorted(byText)).toEqual(name === 'withdraw planned' ? [] : all.toSorted(byText));
      }),
    );
  });
});

test('only what is overdue has a class, and it is never heard exactly where nothing was accepted', () => {
  fc.assert(
    fc.property(fc.array(fc.record({ deployment: deploymentIn(SERVER_MOVES['give up'].from), heard })), (late) => {
      for (const { moves, reason } of giveUp(late, 'server', NOW))
        for (const { next } of moves) {
          expect(next.overdue === 'never-heard').toBe(next.acceptedAt === null);
          expect(next).toMatchObject({ deadlineAt: null, heldUntil: null, decidedAt: NOW });
          expect(reason).toBe(`overdue: ${next.overdue} in ${next.reached}`);
        }
    }),
  );
});

test('a device that is connected, and was heard since and lately, is stuck; any other that accepted is silent', () => {
  const deployment = planned('r1', 'gw-1', {
    state: 'fetching',
    offeredAt: T0,
    acceptedAt: T0,
    stateAt: NOW - 600_000,
  });
  const classOf = (online: boolean, lastSeenAt: number | null) =>
    giveUp([{ deployment, heard: { online, lastSeenAt } }], 'server', NOW)[0]!.moves[0]!.next.overdue;
  expect(classOf(true, NOW - 1_000)).toBe('stuck');
  expect(classOf(false, NOW - 1_000)).toBe('silent');
  expect(classOf(true, NOW - 301_000)).toBe('silent');
  expect(classOf(true, NOW - 700_000)).toBe('silent');
  expect(classOf(true, null)).toBe('silent');
});

test('each offer counts, and the device has until then to act on it', () => {
  const first = offer([planned('r1', 'gw-1', {})], { acceptBy: NOW + 5, wave: 2 }, NOW);
  expect(first.moves[0]!.next).toMatchObject({
    state: 'offered',
    offeredAt: NOW,
    acceptedAt: null,
    deadlineAt: NOW + 5,
  });
  expect(first.moves[0]!.next).not.toHaveProperty('offers');
  expect(first.audit).toMatchObject([{ kind: 'offered', wave: 2, devices: ['gw-1'] }]);
  const again = replan([{ ...first.moves[0]!.next, state: 'withdrawn' }], NOW).moves[0]!.next;
  expect(offer([again], { acceptBy: NOW + 9, wave: 2 }, NOW).moves[0]!.next.offers).toBe(2);
});

test('a withdrawn deployment keeps how far it had come, one that is taken over when it was offered', () => {
  const fetching = planned('r1', 'gw-1', { state: 'fetching', offeredAt: T0, acceptedAt: T0 + 1 });
  expect(withdraw([fetching], { by: 'abort', reason: '' }, NOW).moves[0]).toMatchObject({
    next: { reached: 'fetching', acceptedAt: T0 + 1 },
    withdrawnBy: 'abort',
  });
  expect(takeOver([fetching], FIRST, NOW).moves[0]!.next).toMatchObject({ offeredAt: T0, acceptedAt: null });
});

test('a line of the audit log names at most 500 devices', () => {
  const many = Array.from({ length: 1_001 }, (_, index) => planned('r1', `gw-${index}`, {}));
  const named = skip(many, NOW).audit.map((event) => devicesOf(event).length);
  expect(named).toEqual([500, 500, 1]);
});

describe('a wait', () => {
  test('that is over puts what is installed at risk from now on', () => {
    const ready = planned('r1', 'gw-1', { state: 'ready', acceptedAt: T0, heldUntil: NOW - 1, deadlineAt: NOW });
    expect(endWait(ready, NOW, 60_000)).toMatchObject({ heldUntil: null, acceptedAt: NOW, deadlineAt: NOW + 60_000 });
    expect(endWait({ ...ready, state: 'offered' }, NOW, 60_000)).toMatchObject({ heldUntil: null, acceptedAt: T0 });
  });
  test('that moves takes its deadline along', () => {
    fc.assert(
      fc.property(deploymentIn(DEPLOYMENT_STATES), time, (deployment, until) => {
        const next = waitUntil(deployment, until);
        const { heldUntil, deadlineAt } = deployment;
        const moves = heldUntil !== null && heldUntil !== until;
        expect(next?.heldUntil).toBe(moves ? until : undefined);
        const left = moves && deadlineAt !== null ? deadlineAt - heldUntil : undefined;
        expect(next?.deadlineAt === undefined || next.deadlineAt === null ? undefined : next.deadlineAt - until).toBe(
          left,
        );
      }),
    );
  });
  test('for a server that was away moves the deadline, and is remembered', () => {
    expect(grantGrace(planned('r1', 'gw-1', { deadlineAt: T0 }), NOW)).toMatchObject({
      deadlineAt: NOW,
      graceUntil: NOW,
    });
  });
});

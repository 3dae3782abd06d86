import { beforeEach, expect, test } from 'vitest';
import { Channels } from '#server/domain/release/channel.ts';
import { createOperator, revokeOperator } from '#server/flow/operators.ts';
import { planRollout } from '#server/flow/rollout/plan-rollout.ts';
import { reportRollout } from '#server/flow/rollout/report-rollout.ts';
import { approveRollout, steerRollout } from '#server/flow/rollout/steer-rollout.ts';
import { withdrawRelease } from '#server/flow/rollout/withdraw-release.ts';
import { Id } from '#shared/ids.ts';
import { Policy } from '#shared/policy.ts';
import {
  deploymentsOf,
  enrolFleet,
  GATEWAY,
  kindsOf,
  must,
  PRODUCTION,
  releaseOf,
  run,
  startRollout,
  worldOfEachTest,
} from '../world.ts';

const world = worldOfEachTest();
let rollout: Id;
const approve = (by: string, note = '') => approveRollout(world, { rollout, note, by });
const stateOf = async () => (await world.store.getRollout(rollout))?.progress;

beforeEach(async () => {
  world.channels.splice(0, 9, ...Channels.parse(['staging', { name: 'production', rolloutApprovals: 2 }]));
  must(await createOperator(world, { name: 'root', role: 'admin', by: 'server' }));
  for (const name of ['ada', 'bob', 'carol']) must(await createOperator(world, { name, role: 'operator', by: 'root' }));
  must(await createOperator(world, { name: 'ci', role: 'ci', by: 'root' }));
  await enrolFleet(world, 2);
  await releaseOf(world, '1.0.0');
  rollout = await startRollout(world, '1.0.0');
});

test('no one is offered anything before enough others have approved', async () => {
  expect(await stateOf()).toEqual({ state: 'awaiting-approval', needed: 2, approvedBy: [], startAt: world.now() });
  world.pass(3_600_000);
  await run(world, rollout);
  expect(new Set((await deploymentsOf(world, rollout)).map(({ state }) => state))).toEqual(new Set(['planned']));
  must(await approve('bob'));
  const waiting = must(await approve('bob'));
  expect(waiting.progress).toMatchObject({ state: 'awaiting-approval', approvedBy: ['bob'] });
  const { explanation } = await reportRollout(world, waiting);
  expect(explanation).toBe('Waits for approval: 1 of 2 given (bob).');
  expect(must(await approve('carol', 'fine')).progress).toMatchObject({ state: 'running', wave: 0 });
  expect((await deploymentsOf(world, rollout)).map(({ state }) => state)).toEqual(['offered', 'offered']);
  const lines = (await world.store.readAudit(-1, 1000)).map(({ payload }) => JSON.parse(payload));
  expect(lines.filter(({ kind }) => kind === 'rollout-approved')).toMatchObject([
    { by: 'bob', approvedBy: ['bob'], needed: 2 },
    { by: 'carol', approvedBy: ['bob', 'carol'], needed: 2, note: 'fine' },
  ]);
  expect(await approve('root')).toMatchObject({ code: 'conflict' });
});

test('one that no one approves ends when its time is over', async () => {
  const planned = must(
    await planRollout(world, {
      product: GATEWAY,
      version: '1.0.0',
      channel: PRODUCTION,
      cohorts: [{ cohort: Id.parse('fleet'), waves: [{ percent: 100 }] }],
      policy: Policy.parse({}),
      endBy: world.now() + 3_600_000,
      by: 'ada',
    }),
  );
  rollout = planned.plan.id;
  must(await approve('bob'));
  const dueAt = async (at: number) => (await world.store.listDueRollouts(at, 10)).map(({ plan }) => plan.id);
  expect(await dueAt(world.now() + 3_599_999)).not.toContain(rollout);
  expect(await dueAt(world.now() + 3_600_000)).toContain(rollout);
  world.pass(3_600_000);
  expect((await run(world, rollout)).progress).toMatchObject({
    state: 'aborted',
    by: 'server',
    note: 'its time was over before it was approved',
  });
  expect(new Set((await deploymentsOf(world, rollout)).map(({ state }) => state))).toEqual(new Set(['withdrawn']));
  expect(await approve('carol')).toMatchObject({ code: 'conflict' });
});

test('its author cannot approve it, nor can CI', async () => {
  expect(await approve('ada')).toMatchObject({ code: 'forbidden', detail: expect.stringContaining('ada planned') });
  expect(await approve('ci')).toMatchObject({ code: 'forbidden' });
  expect(await kindsOf(world)).not.toContain('rollout-approved');
});

test('an operator who was revoked meanwhile does not count', async () => {
  must(await approve('bob'));
  must(await revokeOperator(world, { name: 'bob', by: 'root' }));
  expect(must(await approve('carol')).progress).toMatchObject({ state: 'awaiting-approval', approvedBy: ['carol'] });
  expect(must(await approve('root')).progress.state).toBe('running');
});

test('a start that was asked for is kept, however early the approvals come', async () => {
  rollout = await startRollout(world, '1.0.0', { startAt: world.now() + 60_000 });
  must(await approve('bob'));
  expect(must(await approve('carol')).progress).toEqual({ state: 'scheduled', startAt: world.now() + 60_000 });
  world.pass(60_000);
  expect((await run(world, rollout)).progress.state).toBe('running');
});

test('a rollout that waits can be aborted, and ends when its release is withdrawn', async () => {
  must(await steerRollout(world, { rollout, verb: 'abort', note: 'no', by: 'ada' }));
  expect(await approve('bob')).toMatchObject({ code: 'conflict' });
  rollout = await startRollout(world, '1.0.0');
  must(await withdrawRelease(world, { product: GATEWAY, version: '1.0.0', reason: 'bad', by: 'ada' }));
  expect(await stateOf()).toMatchObject({ state: 'aborted', note: 'its release was withdrawn' });
  expect(new Set((await deploymentsOf(world, rollout)).map(({ state }) => state))).toEqual(new Set(['withdrawn']));
});

/** Rollouts over HTTP, from a product to an abort or a recall. */
import { expect, test } from 'vitest';
import { Channels } from '#server/domain/release/channel.ts';
import type { OperatorRole } from '#server/store/operators.ts';
import { Id } from '#shared/ids.ts';
import { publicKeyPem } from '#shared/trust/keys.ts';
import { NoticedView, ReleaseView, RolloutView } from '#shared/views.ts';
import {
  deploymentsOf,
  enrolFleet,
  makeBundle,
  releaseOf,
  report as reportOutcome,
  run,
  signBundles,
  type World,
} from '../flow/world.ts';
import { problemOf, withApi } from './rig.ts';

let world: World;
const call = withApi((api) => {
  ({ world } = api);
});

test('from product to rollout over HTTP', async () => {
  await enrolFleet(world, 2);
  const keys = [publicKeyPem(world.ci.key)];
  const product = await call('admin', 'POST', 'products', { name: 'gateway', keys });
  expect([product.status, product.body.role, product.body.keys[0].keyId]).toEqual([201, 'ci-gateway', world.ci.keyId]);
  const bundle = await makeBundle(world, '1.0.0');
  expect((await call('ci', 'PUT', `uploads/${bundle.sha256}`, bundle.bytes)).status).toBe(201);
  const published = await call('ci', 'POST', 'releases', {
    uploads: [bundle.sha256],
    metadata: await signBundles(world, [bundle]),
  });
  expect([published.status, ReleaseView.parse(published.body).progress]).toEqual([201, { state: 'accepted' }]);
  const delegation = await call('ci', 'GET', 'products/gateway/delegation');
  expect(delegation.body).toMatchObject({ role: 'ci-gateway', version: 1, keys: [world.ci.keyId] });
  const staged = await call('ci', 'POST', 'releases/gateway@1.0.0/stage', { channel: 'production' });
  expect(staged.body.progress).toEqual({ state: 'staged', channels: ['production'] });
  const body = { release: 'gateway@1.0.0', cohorts: [{ cohort: 'fleet', waves: [{ count: 1 }, { percent: 100 }] }] };
  const started = await call('operator', 'POST', 'rollouts', body);
  expect(started.status).toBe(201);
  const rollout = RolloutView.parse(started.body);
  expect(rollout).toMatchObject({ state: 'running', wave: 0, devices: 2, excluded: 0, untouched: 1 });
  expect(rollout.counts).toMatchObject({ offered: 1, planned: 1, committed: 0 });
  expect(rollout.explanation).toMatch(/^In wave 1 of 2: /);
  const deployments = await call('viewer', 'GET', `rollouts/${rollout.id}/deployments?state=offered`);
  expect(deployments.body.items).toMatchObject([{ state: 'offered', rollout: rollout.id }]);
  const paused = await call('operator', 'POST', `rollouts/${rollout.id}/pause`);
  expect(paused.body).toMatchObject({ state: 'paused', explanation: expect.stringContaining('operator-1 paused it') });
  expect(problemOf(await call('operator', 'POST', `rollouts/${rollout.id}/pause`))).toEqual([409, 'conflict']);
  const withdrawn = await call('operator', 'POST', 'releases/gateway@1.0.0/withdraw', { reason: 'it leaks' });
  expect(withdrawn.body.progress).toMatchObject({ state: 'withdrawn', by: 'operator-1', reason: 'it leaks' });
  expect((await call('viewer', 'GET', `rollouts/${rollout.id}`)).body.state).toBe('halted');
  const aborted = await call('operator', 'POST', `rollouts/${rollout.id}/abort`, { note: 'enough' });
  expect(aborted.body).toMatchObject({ state: 'aborted', untouched: 2 });
});

test('a rollout in a channel that says so starts when someone else has approved it', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  world.channels.splice(0, 9, ...Channels.parse([{ name: 'production', rolloutApprovals: 1 }]));
  const body = { release: 'gateway@1.0.0', cohorts: [{ cohort: 'fleet' }] };
  const rollout = RolloutView.parse((await call('operator', 'POST', 'rollouts', body)).body);
  expect(rollout).toMatchObject({
    state: 'awaiting-approval',
    approval: { needed: 1, approvedBy: [] },
    explanation: 'Waits for approval: 0 of 1 given.',
  });
  const approve = (role: OperatorRole) => call(role, 'POST', `rollouts/${rollout.id}/approve`, { note: 'fine' });
  expect(problemOf(await approve('operator'))).toEqual([403, 'forbidden']);
  expect(problemOf(await approve('ci'))).toEqual([403, 'forbidden']);
  expect((await approve('admin')).body).toMatchObject({ state: 'running', approval: null });
  expect(problemOf(await approve('admin'))).toEqual([409, 'conflict']);
  const nightly = { ...body, channel: 'nightly' };
  expect(problemOf(await call('operator', 'POST', 'rollouts', nightly))).toEqual([400, 'invalid-request']);
});

test('after a halt, what each device did is listed, and failures are acknowledged by name', async () => {
  await releaseOf(world, '1.0.0');
  await enrolFleet(world, 2);
  const policy = { judge: { rule: 'wave-percentage', percent: 10 }, gate: { successShare: 0 } };
  const body = { release: 'gateway@1.0.0', cohorts: [{ cohort: 'fleet' }], policy };
  const rollout = RolloutView.parse((await call('operator', 'POST', 'rollouts', body)).body);
  const [first] = await deploymentsOf(world, rollout.id);
  await reportOutcome(world, first!, { outcome: 'reverted' });
  await run(world, rollout.id);
  const listed = await call('viewer', 'GET', `rollouts/${rollout.id}/deployments`);
  expect(listed.body.items).toMatchObject([
    { did: 'reverted', attempts: null },
    { state: 'withdrawn', did: 'nothing' },
  ]);
  const resume = (acknowledgeFailures: unknown, note = 'it stood in water') =>
    call('operator', 'POST', `rollouts/${rollout.id}/resume`, { note, acknowledgeFailures });
  expect(problemOf(await resume(['gw-99']))).toEqual([400, 'invalid-request']);
  expect(problemOf(await resume([first!.device], ''))).toEqual([400, 'invalid-request']);
  expect((await resume([first!.device])).body.state).not.toBe('halted');
});

test('a rollout that was aborted is recalled: it names what takes its devices back, and who stays', async () => {
  await releaseOf(world, '1.0.0');
  await releaseOf(world, '1.1.0');
  await enrolFleet(world, 2);
  const cohorts = [{ cohort: 'fleet', waves: [{ percent: 100 }] }];
  const begun = await call('operator', 'POST', 'rollouts', { release: 'gateway@1.1.0', cohorts });
  const { id } = RolloutView.parse(begun.body);
  const at = `rollouts/${id}/recall`;
  expect(problemOf(await call('operator', 'POST', at, {}))).toEqual([409, 'conflict']);
  for (const deployment of await deploymentsOf(world, Id.parse(id)))
    await reportOutcome(world, deployment, { outcome: 'committed' });
  await call('operator', 'POST', `rollouts/${id}/abort`, {});
  const recalled = RolloutView.parse((await call('operator', 'POST', at, { note: 'GW-31' })).body);
  expect(recalled).toMatchObject({
    state: 'aborted',
    recall: { by: 'operator-1', note: 'GW-31', to: null, rollouts: [], stays: [{ reason: 'ran-nothing', devices: 2 }] },
    explanation: expect.stringContaining('Recalled by operator-1: no one goes back. 2 cannot go back'),
  });
  expect(problemOf(await call('operator', 'POST', at, { to: '7.0.0' }))).toEqual([404, 'not-found']);
  const named = NoticedView.parse((await call('operator', 'POST', at, { to: '1.0.0' })).body);
  expect(named.recall).toMatchObject({
    to: 'gateway@1.0.0',
    rollouts: [{ id: `${id}-r1`, release: 'gateway@1.0.0', devices: 2 }],
  });
  expect(named.notices).toEqual([]);
  const again = NoticedView.parse((await call('operator', 'POST', at, { to: '1.0.0' })).body);
  expect(again.notices).toEqual([expect.stringMatching(/^No one is left to recall: /)]);
  const back = RolloutView.parse((await call('viewer', 'GET', `rollouts/${id}-r1`)).body);
  expect(back).toMatchObject({
    recalls: id,
    recall: null,
    explanation: expect.stringContaining(`takes devices of ${id} back`),
  });
});

test('a rollout of what is not there or not staged is refused', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const cohorts = [{ cohort: 'fleet' }];
  expect(problemOf(await call('operator', 'POST', 'rollouts', { release: 'gateway@9.9.9', cohorts }))).toEqual([
    404,
    'not-found',
  ]);
  const elsewhere = { release: 'gateway@1.0.0', channel: 'staging', cohorts };
  expect(problemOf(await call('operator', 'POST', 'rollouts', elsewhere))).toEqual([409, 'conflict']);
  const wrong = await call('operator', 'POST', 'rollouts', {
    release: 'x',
    cohorts: [],
    policy: { judge: { rule: 'no' } },
  });
  expect(problemOf(wrong)).toEqual([400, 'invalid-request']);
  expect(wrong.body.issues.map((issue: { path: string }) => issue.path)).toEqual([
    'body.release',
    'body.cohorts',
    'body.policy.judge.rule',
  ]);
});

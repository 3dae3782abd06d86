import { beforeEach, expect, test } from 'vitest';
import { CHECKPOINT_META } from '#server/flow/audit/keep-checkpoint.ts';
import { DESIRED_LIFE_MS, desiredOf } from '#server/flow/device/desired.ts';
import { steerRollout } from '#server/flow/rollout/steer-rollout.ts';
import { type HousekeepingDeps, performTask, startHousekeeping, type Task } from '#server/housekeeping.ts';
import type { Id } from '#shared/ids.ts';
import { DesiredBatch, DesiredLeaf, Signed } from '#shared/messages.ts';
import { parseCheckpoint } from '#shared/trust/checkpoint.ts';
import { rootOfHead } from '#shared/trust/merkle.ts';
import { verifySigned } from '#shared/trust/signed.ts';
import {
  DAY,
  enrolFleet,
  filesOf,
  makeBundle,
  must,
  releaseOf,
  run,
  startRollout,
  upload,
  worldOfEachTest,
} from './flow/world.ts';

const world = worldOfEachTest();
let told: string[];
let deps: HousekeepingDeps;
beforeEach(async () => {
  told = [];
  deps = {
    ...world,
    decisionsKeptDays: 0,
    report: {
      done: (task: Task, result: number) => void told.push(`${task} ${result}`),
      failed: (task: Task, error: unknown) => void told.push(`${task} failed: ${String(error)}`),
      miscounted: (rollout: Id) => void told.push(`miscounted ${rollout}`),
    },
  };
});

test('everything is done once at the start, and nothing after the stop', async () => {
  const housekeeping = startHousekeeping(deps);
  await expect.poll(() => told.length).toBeGreaterThanOrEqual(9);
  await housekeeping.stop();
  // Their own times may come in between: a minute ends whenever it likes.
  const firsts = [...Map.groupBy(told, (line) => line.split(' ')[0]).values()].map(([first]) => first);
  expect(firsts).toEqual([
    'note-alive 1',
    'expire-uploads 0',
    'refresh-metadata 1',
    'sign-checkpoint 1',
    'recount-deployments 0',
    'sweep-objects 0',
    'make-packs 1',
    'trim-logs 0',
    'prune-decisions 0',
  ]);
});

test('a checkpoint signed by the log key is kept, of the log as it is', async () => {
  await enrolFleet(world, 2);
  await performTask(deps, 'sign-checkpoint');
  const signed = Signed.parse(JSON.parse((await world.store.getMeta(CHECKPOINT_META)) ?? 'null'));
  expect(verifySigned(signed, world.log.key)).toBe(true);
  const head = await world.store.getAuditHead();
  expect(parseCheckpoint(signed.payload)).toMatchObject({ size: head.size, root: rootOfHead(head) });
});

test('sweeping spares what releases need and what waits to be published', async () => {
  await releaseOf(world, '1.0.0');
  await upload(world, await makeBundle(world, '1.0.1'));
  const before = await filesOf(world);
  expect(before).toHaveLength(2);
  await performTask(deps, 'sweep-objects');
  await performTask(deps, 'sweep-objects');
  expect((await filesOf(world)).sort()).toEqual(before.sort());
});

test('decisions of a rollout are pruned so long after its end as is configured, and by default never', async () => {
  await enrolFleet(world, 2);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0');
  must(await steerRollout(world, { rollout, verb: 'abort', note: '', by: 'ada' }));
  world.pass(10 * 60_000);
  await run(world, rollout);
  const { length } = await world.store.listDecisions(rollout, { limit: 10 });
  const prune = (decisionsKeptDays: number) => performTask({ ...deps, decisionsKeptDays }, 'prune-decisions');
  world.pass(29 * DAY);
  await prune(30);
  world.pass(DAY);
  await prune(0);
  await prune(30);
  expect(told).toEqual(['prune-decisions 0', 'prune-decisions 0', `prune-decisions ${length - 1}`]);
  expect(await world.store.listDecisions(rollout, { limit: 10 })).toMatchObject([{ n: length }]);
});

test('counters that are right are not reported, and ones that are wrong are', async () => {
  await enrolFleet(world, 2);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0');
  await performTask(deps, 'recount-deployments');
  expect(told).toEqual(['recount-deployments 0']);
  const counts = await world.store.countDeployments(rollout);
  const wrong = counts.map((count) => ({ ...count, devices: count.devices + 1 }));
  const damaged = { ...world.store, countDeployments: async () => wrong };
  await performTask({ ...deps, store: damaged }, 'recount-deployments');
  expect(told.slice(1)).toEqual([`miscounted ${rollout}`, 'recount-deployments 1']);
});

test('a task that fails is reported and stops nothing', async () => {
  const broken = { ...deps, repository: { refresh: () => Promise.reject(new Error('disk full')) } };
  await performTask(broken, 'refresh-metadata');
  await performTask(broken, 'expire-uploads');
  expect(told).toEqual(['refresh-metadata failed: Error: disk full', 'expire-uploads 0']);
});

test('metadata is signed again before it expires, however long the server runs', async () => {
  const expiry = async (): Promise<number> =>
    Date.parse(JSON.parse(String(await world.repository.read('metadata', 'timestamp.json'))).signed.expires);
  for (let hours = 0; hours < 72; hours += 6) {
    await performTask(deps, 'refresh-metadata');
    expect(await expiry()).toBeGreaterThan(world.now());
    world.pass(DAY / 4);
  }
});

test('a device that comes back after a month gets the same instruction, signed again', async () => {
  const [device] = await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  await startRollout(world, '1.0.0', { policy: { deadlines: { acceptMs: 60 * DAY } } });
  const first = await desiredOf(world, device!);
  world.pass(DAY);
  expect(await desiredOf(world, device!)).toEqual(first);
  world.pass(30 * DAY);
  const second = await desiredOf(world, device!);
  const [before, after] = [first, second].map((desired) => DesiredLeaf.parse(JSON.parse(desired!.leaf)));
  expect(after).toEqual({ ...before, issuedAt: world.now(), expires: world.now() + DESIRED_LIFE_MS });
  expect(DesiredBatch.parse(JSON.parse(second!.batch.payload)).expires).toBe(after!.expires);
  expect(verifySigned(second!.batch, world.director.key)).toBe(true);
});

test('a device of whom nothing was ever asked has no document', async () => {
  const [device] = await enrolFleet(world, 1);
  expect(await desiredOf(world, device!)).toBeNull();
});

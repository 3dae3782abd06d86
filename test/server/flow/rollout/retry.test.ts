import { expect, test } from 'vitest';
import { stepDeployment } from '#server/domain/deployment/deployment-step.ts';
import { explainRollout } from '#server/flow/rollout/explain-rollout.ts';
import { queueRollouts } from '#server/flow/rollout/queue-rollouts.ts';
import type { Id } from '#shared/ids.ts';
import { Policy } from '#shared/policy.ts';
import { report as row } from '#test/server/store/records.ts';
import { deploymentsOf, enrolFleet, lastTold, must, releaseOf, run, startRollout, worldOfEachTest } from '../world.ts';

const world = worldOfEachTest();

let seq = 0;
const failToFetch = async (rollout: Id): Promise<void> => {
  const [deployment] = await deploymentsOf(world, rollout);
  const error = { code: 'FETCH_FAILED' as const, message: 'no route' };
  const step = stepDeployment(
    deployment!,
    { outcome: 'failed', error, attempt: deployment!.offers },
    world.now(),
    Policy.parse({}),
  );
  seq += 1;
  const { publicKey } = (await world.store.getDevice(deployment!.device))!;
  await world.store.saveReports([row('gw-1', seq, { publicKey, deployments: [step.next], at: world.now() })]);
};
const only = async (rollout: Id) => (await deploymentsOf(world, rollout))[0];

test('a device that could not fetch is offered the release again when its cool-down is over, as another attempt', async () => {
  const [device] = await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0');
  expect(lastTold(world, device!)).not.toHaveProperty('attempt');
  await failToFetch(rollout);
  expect(await only(rollout)).toMatchObject({ state: 'planned', attempts: { ended: 1 } });
  expect(await world.store.getDevice(device!)).toMatchObject({ deployment: null });
  world.pass(599_000);
  expect((await run(world, rollout)).progress.state).toBe('running');
  expect(await only(rollout)).toMatchObject({ state: 'planned' });
  world.pass(2_000);
  await run(world, rollout);
  expect(await only(rollout)).toMatchObject({ state: 'offered', attempts: { ended: 1 } });
  expect(lastTold(world, device!)).toMatchObject({ kind: 'install', attempt: 2 });
  expect(await world.store.countDeployments(rollout)).toEqual(await world.store.recountDeployments(rollout));
});

test('when its retries are used up it has failed, and counts', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0');
  for (let attempt = 0; attempt < 4; attempt += 1) {
    await failToFetch(rollout);
    world.pass(10_000_000);
    await run(world, rollout);
  }
  expect(await only(rollout)).toMatchObject({ state: 'failed', attempts: { failed: 3 } });
});

test('a device that cools down is told of, with its time: it keeps its rollout, and lower ones, waiting', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  await releaseOf(world, '1.1.0');
  const urgent = await startRollout(world, '1.0.0', { policy: { priority: 90 } });
  await failToFetch(urgent);
  const lower = await startRollout(world, '1.1.0');
  expect(await only(lower)).toMatchObject({ state: 'planned' });
  const next = world.now() + 600_000;
  const words =
    '1 device cools down after an attempt that ended for a cause outside of the release: it is offered it again in 10 min at the earliest';
  const queue = await queueRollouts(world);
  expect(queue).toMatchObject([
    // It has begun once.
    { rollout: { plan: { id: urgent } }, untouched: 0, coolingDown: { devices: 1, next }, waitsFor: [] },
    { rollout: { plan: { id: lower } }, untouched: 1, waitsFor: [{ rollout: urgent, devices: 1 }] },
  ]);
  expect(queue[0]!.explanation).toContain(` ${words}.`);
  expect(queue[1]).not.toHaveProperty('coolingDown');
  const explained = must(await explainRollout(world, urgent, { limit: 1, verify: true }));
  expect(explained.now.reasons).toContainEqual({ about: 'retries', sentence: words });
  world.pass(600_000);
  expect((await queueRollouts(world))[0]).not.toHaveProperty('coolingDown');
});

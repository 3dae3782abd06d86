import { expect, test } from 'vitest';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import type { Id } from '#shared/ids.ts';
import { deploymentsOf, enrolFleet, kindsOf, releaseOf, report, run, startRollout, worldOfEachTest } from '../world.ts';

const world = worldOfEachTest();

const committed = async (rollout: Id): Promise<DeploymentRecord[]> => {
  const offered = (await deploymentsOf(world, rollout)).filter(({ state }) => state === 'offered');
  for (const deployment of offered) await report(world, deployment, { outcome: 'committed' });
  return offered;
};
const beat = (device: Id, healthy: boolean) =>
  world.store.saveHeartbeats([{ device, boot: 'boot-1' as Id, at: world.now(), running: null, healthy }]);

test('a wave that was complete turns out badly while its successor is open, and the judge halts the rollout', async () => {
  await enrolFleet(world, 4);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0', {
    waves: [{ count: 2 }, { count: 4 }],
    policy: {
      judge: { rule: 'wave-percentage', percent: 10 },
      gate: { soakMs: 1_000 },
      watch: { unhealthyMs: 60_000 },
    },
  });
  const first = await committed(rollout);
  await run(world, rollout);
  world.pass(2_000);
  expect((await run(world, rollout)).progress).toMatchObject({ state: 'running', wave: 1 });
  for (const { device } of first) await beat(device, false);
  world.pass(61_000);
  for (const { device } of first) await beat(device, false);
  expect((await run(world, rollout)).progress).toMatchObject({ state: 'halted', wave: 1 });
  const states = (await deploymentsOf(world, rollout)).map(({ state }) => state).sort();
  expect(states).toEqual(['failed', 'failed', 'withdrawn', 'withdrawn']);
  expect((await kindsOf(world)).filter((kind) => kind === 'regressed')).toHaveLength(2);
});

test('a completed rollout goes on being due as long as its devices are watched, and then rests', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0', { policy: { watch: { watchMs: 600_000, unhealthyMs: 60_000 } } });
  const [one] = await committed(rollout);
  const record = await run(world, rollout);
  expect(record.progress.state).toBe('completed');
  expect(record.nextTickAt).toBeGreaterThan(world.now());
  await beat(one!.device, false);
  world.pass(60_000);
  await beat(one!.device, false);
  await run(world, rollout);
  expect((await deploymentsOf(world, rollout))[0]).toMatchObject({ state: 'failed', error: { code: 'REGRESSED' } });
  world.pass(1_000_000);
  expect((await run(world, rollout)).nextTickAt).toBeNull();
});

test('after the watch a device may be as ill as it likes, and with watchMs 0 at once', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0', { policy: { watch: { watchMs: 0 } } });
  const [one] = await committed(rollout);
  for (let minute = 0; minute < 20; minute += 1) {
    await beat(one!.device, false);
    world.pass(60_000);
  }
  expect((await run(world, rollout)).nextTickAt).toBeNull();
  expect((await deploymentsOf(world, rollout))[0]).toMatchObject({ state: 'committed' });
});

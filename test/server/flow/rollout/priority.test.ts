import { expect, test } from 'vitest';
import { queueRollouts } from '#server/flow/rollout/queue-rollouts.ts';
import { reportRollout } from '#server/flow/rollout/report-rollout.ts';
import { steerRollout } from '#server/flow/rollout/steer-rollout.ts';
import type { Id } from '#shared/ids.ts';
import {
  deploymentsOf,
  enrolFleet,
  kindsOf,
  lastTold,
  must,
  releaseOf,
  report,
  run,
  startRollout,
  worldOfEachTest,
} from '../world.ts';

const world = worldOfEachTest();
const statesOf = async (rollout: Id) =>
  Object.fromEntries((await deploymentsOf(world, rollout)).map((one) => [one.device, one.state]));

test('an urgent rollout takes devices over; trials finish; what was taken comes back to the lower one afterwards', async () => {
  await releaseOf(world, '1.1.0');
  await releaseOf(world, '1.2.0');
  const [gw1, gw2] = await enrolFleet(world, 2);
  const low = await startRollout(world, '1.1.0');
  const [first, second] = await deploymentsOf(world, low);
  const trial = first!.device === gw1 ? first! : second!;
  await report(world, trial, { state: 'trial' });
  const urgent = await startRollout(world, '1.2.0', { policy: { priority: 90 } });
  expect(await statesOf(low)).toEqual({ [gw1!]: 'trial', [gw2!]: 'planned' });
  expect(await statesOf(urgent)).toEqual({ [gw1!]: 'planned', [gw2!]: 'offered' });
  const told = lastTold(world, gw2!);
  expect(told?.kind === 'install' && told.rollout).toBe(urgent);
  expect(await kindsOf(world)).toContain('taken-over');

  // The lower one gets no one that the urgent one still wants, and says why.
  await report(world, trial, { outcome: 'committed' });
  await run(world, low);
  expect(await statesOf(low)).toEqual({ [gw1!]: 'committed', [gw2!]: 'planned' });
  const explanation = (await reportRollout(world, (await world.store.getRollout(low))!)).explanation;
  expect(explanation).toContain(`1 with ${urgent}`);
  await run(world, urgent);
  for (const deployment of await deploymentsOf(world, urgent))
    await report(world, deployment, { outcome: 'committed' });
  await run(world, urgent);
  await run(world, low);
  expect(await statesOf(low)).toEqual({ [gw1!]: 'committed', [gw2!]: 'offered' });
});

test('an activation that the takeover comes too late for is still believed', async () => {
  await releaseOf(world, '1.1.0');
  await releaseOf(world, '1.2.0');
  await enrolFleet(world, 1);
  const low = await startRollout(world, '1.1.0');
  const [mine] = await deploymentsOf(world, low);
  await startRollout(world, '1.2.0', { policy: { priority: 90 } });
  await report(world, mine!, { state: 'trial' });
  expect((await deploymentsOf(world, low))[0]?.state).toBe('trial');
});

test('an urgent rollout keeps no one from lower ones while its window is shut, and takes devices over when it opens', async () => {
  await releaseOf(world, '1.1.0');
  await releaseOf(world, '1.2.0');
  const [gw1, gw2] = await enrolFleet(world, 2);
  const windows = [{ cron: '0 2 * * *', durationMs: 3_600_000 }];
  const urgent = await startRollout(world, '1.2.0', { policy: { priority: 90, windows } });
  const low = await startRollout(world, '1.1.0', { waves: [{ count: 1 }, { count: 2 }] });
  expect(Object.values(await statesOf(low)).sort()).toEqual(['offered', 'planned']);
  const lowest = await startRollout(world, '1.2.0', { policy: { priority: 10 } });
  // Of this one, the window is not what it waits for.
  const waits = (await queueRollouts(world)).find(({ rollout }) => rollout.plan.id === lowest)?.waitsFor;
  expect(waits).toEqual([{ rollout: low, devices: 2 }]);
  world.pass(2 * 3_600_000);
  await run(world, urgent);
  expect(await statesOf(low)).toEqual({ [gw1!]: 'planned', [gw2!]: 'planned' });
  expect(await statesOf(urgent)).toEqual({ [gw1!]: 'offered', [gw2!]: 'offered' });
});

test('of equal priority, the rollout that has a device keeps it', async () => {
  await releaseOf(world, '1.1.0');
  await releaseOf(world, '1.2.0');
  await enrolFleet(world, 1);
  const one = await startRollout(world, '1.1.0');
  const two = await startRollout(world, '1.2.0');
  expect(Object.values(await statesOf(one))).toEqual(['offered']);
  expect(Object.values(await statesOf(two))).toEqual(['planned']);
});

test('a paused urgent rollout keeps no one waiting; the queue shows who waits for whom', async () => {
  await releaseOf(world, '1.1.0');
  await releaseOf(world, '1.2.0');
  const devices = await enrolFleet(world, 2);
  const urgent = await startRollout(world, '1.2.0', { policy: { priority: 90 }, waves: [{ count: 1 }, { count: 2 }] });
  const low = await startRollout(world, '1.1.0');
  expect(Object.values(await statesOf(low))).toEqual(['planned', 'planned']);
  const queue = await queueRollouts(world);
  expect(queue.map(({ rollout, waitsFor }) => [rollout.plan.id, waitsFor])).toEqual([
    [urgent, []],
    [low, [{ rollout: urgent, devices: devices.length }]],
  ]);
  must(await steerRollout(world, { rollout: urgent, verb: 'pause', note: '', by: 'ada' }));
  await run(world, low);
  expect(Object.values(await statesOf(low)).sort()).toEqual(['offered', 'planned']);
});

// Found by the simulation: what had come to the lower one meanwhile was taken over at once.
test('an urgent rollout takes no device over whose cool-down is not over', async () => {
  await releaseOf(world, '1.1.0');
  await releaseOf(world, '1.2.0');
  const [device] = await enrolFleet(world, 1);
  const urgent = await startRollout(world, '1.2.0', { policy: { priority: 90, retries: { coolDownMs: 600_000 } } });
  const [deployment] = await deploymentsOf(world, urgent);
  await report(world, deployment!, { outcome: 'failed', error: { code: 'FETCH_FAILED', message: 'no route' } });
  await steerRollout(world, { rollout: urgent, verb: 'pause', note: '', by: 'ada' });
  const low = await startRollout(world, '1.1.0');
  expect(await statesOf(low)).toEqual({ [device!]: 'offered' });
  await steerRollout(world, { rollout: urgent, verb: 'resume', note: '', by: 'ada' });
  await run(world, urgent);
  expect(await statesOf(low)).toEqual({ [device!]: 'offered' });
  world.pass(600_001);
  await run(world, urgent);
  expect(await statesOf(urgent)).toEqual({ [device!]: 'offered' });
});

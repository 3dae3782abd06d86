import { beforeEach, expect, test } from 'vitest';
import { grantGrace, noteAlive } from '#server/flow/rollout/grant-grace.ts';
import type { Id } from '#shared/ids.ts';
import { deploymentsOf, enrolFleet, releaseOf, report, run, startRollout, worldOfEachTest } from '../world.ts';

const MINUTE = 60_000;
const world = worldOfEachTest();
let rollout: Id;
beforeEach(async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  rollout = await startRollout(world, '1.0.0');
  await report(world, await deployment(), { state: 'trial' });
  await noteAlive(world);
});

const deployment = async () => (await deploymentsOf(world, rollout))[0]!;
const state = async () => (await world.store.getRollout(rollout))?.progress.state;

test('a server that was away past the deadline waits for devices to come back, and does not halt', async () => {
  world.pass(120 * MINUTE);
  expect(await grantGrace(world, 10 * MINUTE)).toEqual({
    awayMs: 120 * MINUTE,
    stepMs: 0,
    graceMs: 10 * MINUTE,
    deployments: 1,
  });
  await run(world, rollout);
  expect([await state(), (await deployment()).state]).toEqual(['running', 'trial']);
  world.pass(9 * MINUTE);
  await report(world, await deployment(), { outcome: 'committed' });
  await run(world, rollout);
  expect(await state()).toBe('completed');
});

test('a device that is silent when the grace is over is overdue after all', async () => {
  world.pass(120 * MINUTE);
  await grantGrace(world, 10 * MINUTE);
  world.pass(10 * MINUTE);
  await run(world, rollout);
  expect([await state(), (await deployment()).overdue]).toEqual(['halted', 'silent']);
});

test('a quick restart grants what devices need to reconnect, and deadlines further away stay', async () => {
  world.pass(5_000);
  expect(await grantGrace(world, 10 * MINUTE)).toEqual({
    awayMs: 5_000,
    stepMs: 0,
    graceMs: 5 * MINUTE + 5_000,
    deployments: 0,
  });
});

test('no grace is granted when none is configured; all of it when no one knows how long the server was away', async () => {
  world.pass(120 * MINUTE);
  expect(await grantGrace(world, 0)).toMatchObject({ graceMs: 0, deployments: 0 });
  await world.store.setMeta('alive-at', 'yesterday');
  expect(await grantGrace(world, 7 * MINUTE)).toEqual({ awayMs: null, stepMs: 0, graceMs: 7 * MINUTE, deployments: 1 });
});

test('a clock that was set back since is no reason to take grace away', async () => {
  world.pass(-MINUTE);
  expect(await grantGrace(world, 10 * MINUTE)).toMatchObject({ awayMs: 0, graceMs: 5 * MINUTE });
});

test('a clock that is set while the server is away, either way, makes no one overdue, and leaves no one unjudged', async () => {
  for (const stepMs of [-365 * 24 * 60 * MINUTE, -60 * MINUTE, 60 * MINUTE, 365 * 24 * 60 * MINUTE]) {
    const before = await deployment();
    let uptimeMs = 1_000_000;
    const uptime = async () => ({ bootId: 'boot-1', uptimeMs });
    await noteAlive({ ...world, uptime });
    uptimeMs += 30_000;
    world.pass(30_000 + stepMs);
    const grace = await grantGrace({ ...world, uptime }, MINUTE);
    expect(grace).toMatchObject({ awayMs: 30_000, stepMs, deployments: 0 });
    expect((await deployment()).deadlineAt).toBe(before.deadlineAt! + stepMs);
    await run(world, rollout);
    expect([stepMs, await state(), (await deployment()).state]).toEqual([stepMs, 'running', 'trial']);
  }
  world.pass(60 * MINUTE);
  await run(world, rollout);
  expect([await state(), (await deployment()).overdue]).toEqual(['halted', 'silent']);
});

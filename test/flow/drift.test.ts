import { afterEach, beforeEach, expect, test } from 'vitest';
import { adoptDrift, reconcileDrift } from '#server/flow/drift.ts';
import type { Running } from '#shared/deployment.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import {
  deploymentsOf,
  enrolFleet,
  GATEWAY,
  kindsOf,
  must,
  openWorld,
  releaseOf,
  report,
  run,
  startRollout,
  type World,
} from './world.ts';

let world: World;
beforeEach(async () => {
  world = await openWorld();
});
afterEach(() => world.close());

const runs = (version: string, digit: string): Running => ({
  product: GATEWAY,
  version,
  manifest: Sha256.parse(digit.repeat(64)),
  slot: 'a',
});
const OLD = runs('1.0.0', 'a');
const MANUAL = runs('0.9.0', 'b');
const beat = async (device: Id, running: Running | null) => {
  world.pass(10_000);
  await world.store.saveHeartbeats([{ device, boot: Id.parse('boot-1'), at: world.now(), running, healthy: true }]);
};
const drifted = async () => (await world.store.listDrifted({ limit: 10 })).map(({ device }) => device);

test('what a device runs when it is first heard is what it should run; something else is drift, until it is back', async () => {
  const [gw1] = await enrolFleet(world, 1);
  await beat(gw1!, OLD);
  expect(await drifted()).toEqual([]);
  await beat(gw1!, MANUAL);
  expect(await world.store.listDrifted({ limit: 10 })).toMatchObject([
    { device: gw1, expected: OLD, running: MANUAL, since: world.now() },
  ]);
  expect(await world.store.countDrifted()).toBe(1);
  await beat(gw1!, null);
  await beat(gw1!, OLD);
  expect(await drifted()).toEqual([]);
  await beat(gw1!, MANUAL);
  expect((await kindsOf(world)).filter((kind) => kind === 'device-drifted')).toHaveLength(1);
});

test('a device that runs what a rollout gives it does not drift, on trial or committed', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1] = await enrolFleet(world, 1);
  await beat(gw1!, OLD);
  const rollout = await startRollout(world, '1.1.0');
  const release = (await world.store.getRelease(GATEWAY, '1.1.0'))!;
  const given: Running = { ...OLD, version: '1.1.0', manifest: release.bundles[0]!.manifestSha256, slot: 'b' };
  const [deployment] = await deploymentsOf(world, rollout);
  await report(world, deployment!, { state: 'trial' });
  await beat(gw1!, given);
  expect(await drifted()).toEqual([]);
  const [trial] = await deploymentsOf(world, rollout);
  await world.store.saveReports([
    {
      device: gw1!,
      publicKey: (await world.store.getDevice(gw1!))!.publicKey,
      boot: Id.parse('boot-1'),
      seq: 1_000_000,
      at: world.now(),
      agent: 'test',
      running: given,
      floor: 0,
      attributes: {},
      deployments: [{ ...trial!, state: 'committed', decidedAt: world.now(), deadlineAt: null }],
      audit: [],
    },
  ]);
  expect(await drifted()).toEqual([]);
  await beat(gw1!, OLD);
  expect(await drifted()).toEqual([gw1]);

  // Back to what it should run, by a rollout of its own.
  const [back] = must(await reconcileDrift(world, { devices: [gw1!], by: 'ada' }));
  await run(world, back!.plan.id);
  expect(back!.plan).toMatchObject({ version: '1.1.0', waveSizes: [1] });
  expect(await drifted()).toEqual([gw1]);
  await beat(gw1!, OLD);
  expect(await drifted()).toEqual([]);
});

test('adopting makes what a device runs what it should run, by name in the log', async () => {
  const [gw1] = await enrolFleet(world, 1);
  await beat(gw1!, OLD);
  await beat(gw1!, MANUAL);
  expect(must(await adoptDrift(world, { device: gw1!, note: 'field test', by: 'ada' })).expected).toEqual(MANUAL);
  await beat(gw1!, MANUAL);
  expect(await drifted()).toEqual([]);
  expect(await kindsOf(world)).toContain('drift-adopted');
  expect(await adoptDrift(world, { device: gw1!, note: '', by: 'ada' })).toMatchObject({
    ok: false,
    code: 'not-found',
  });
});

test('a device can not be sent back to what was never published here', async () => {
  const [gw1] = await enrolFleet(world, 1);
  await beat(gw1!, OLD);
  await beat(gw1!, MANUAL);
  expect(await reconcileDrift(world, { devices: [gw1!], by: 'ada' })).toMatchObject({ ok: false, code: 'conflict' });
});

import { expect, test } from 'vitest';
import { createCohort } from '#server/flow/rollout/create-cohort.ts';
import { adoptDrift, reconcileDrift } from '#server/flow/rollout/drift.ts';
import { planRollout } from '#server/flow/rollout/plan-rollout.ts';
import { steerRollout } from '#server/flow/rollout/steer-rollout.ts';
import type { Running } from '#shared/deployment.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import { Policy } from '#shared/policy.ts';
import {
  deploymentsOf,
  enrolFleet,
  GATEWAY,
  kindsOf,
  must,
  PRODUCTION,
  releaseOf,
  report,
  run,
  startRollout,
  worldOfEachTest,
} from '../world.ts';

const world = worldOfEachTest();

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

// Found by hand: every call planned another rollout for a device that was away.
test('a device that is on its way back stays with the rollout that takes it there, until that is over', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1, gw2] = await enrolFleet(world, 2);
  const release = (await world.store.getRelease(GATEWAY, '1.1.0'))!;
  const given: Running = { ...OLD, version: '1.1.0', manifest: release.bundles[0]!.manifestSha256 };
  for (const device of [gw1!, gw2!]) for (const what of [given, MANUAL]) await beat(device, what);
  const reconcile = async (...devices: Id[]) => must(await reconcileDrift(world, { devices, by: 'ada' })).map(idOf);
  const idOf = ({ plan }: { plan: { id: Id } }): Id => plan.id;
  const [first] = await reconcile(gw1!);
  expect(await reconcile(gw1!)).toEqual([first]);
  await run(world, first!);
  expect(await reconcile(gw1!)).toEqual([first]);
  const both = await reconcile(gw1!, gw2!);
  expect(both).toEqual([first, expect.not.stringMatching(first!)]);
  expect(await deploymentsOf(world, both[1]!)).toMatchObject([{ device: gw2 }]);
  must(await steerRollout(world, { rollout: first!, verb: 'abort', note: '', by: 'ada' }));
  expect(await reconcile(gw1!)).not.toContain(first);
});

// It was told by the name of its cohort, which is anyone's to choose.
test('a rollout of someone to a cohort named as those of reconcile is no way back', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1] = await enrolFleet(world, 1);
  const release = (await world.store.getRelease(GATEWAY, '1.1.0'))!;
  const given: Running = { ...OLD, version: '1.1.0', manifest: release.bundles[0]!.manifestSha256 };
  for (const what of [given, MANUAL]) await beat(gw1!, what);
  const cohort = Id.parse('drift-lyon');
  must(await createCohort(world, { name: cohort, devices: [gw1!], by: 'bob' }));
  const night = Policy.parse({ windows: [{ cron: '0 2 * * *', durationMs: 3_600_000 }] });
  const about = { product: GATEWAY, version: '1.1.0', channel: PRODUCTION, policy: night, by: 'bob' };
  const own = must(await planRollout(world, { ...about, cohorts: [{ cohort, waves: [{ percent: 100 }] }] }));
  const [back] = must(await reconcileDrift(world, { devices: 'all', by: 'ada' }));
  expect(back!.plan.id).not.toBe(own.plan.id);
  expect(must(await reconcileDrift(world, { devices: 'all', by: 'ada' }))).toMatchObject([
    { plan: { id: back!.plan.id } },
  ]);
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

test('devices cannot be sent back to what was never published here, and are all named', async () => {
  const [gw1, gw2] = await enrolFleet(world, 3);
  for (const device of [gw1!, gw2!]) for (const what of [OLD, MANUAL]) await beat(device, what);
  const never = 'gw-1 should run gateway@1.0.0, which was never published here: adopt what it runs instead';
  expect(await reconcileDrift(world, { devices: [gw1!], by: 'ada' })).toMatchObject({
    code: 'conflict',
    detail: never,
  });
  const detail = `${never}; nor can 1 other go back: gw-2`;
  expect(await reconcileDrift(world, { devices: 'all', by: 'ada' })).toMatchObject({ code: 'conflict', detail });
});

test('devices that should run different releases are sent back all together, or none of them', async () => {
  for (const version of ['1.1.0', '1.2.0']) await releaseOf(world, version);
  const [gw1, gw2] = await enrolFleet(world, 2);
  const given = async (version: '1.1.0' | '1.2.0'): Promise<Running> => {
    const release = (await world.store.getRelease(GATEWAY, version))!;
    return { ...OLD, version, manifest: release.bundles[0]!.manifestSha256 };
  };
  await beat(gw1!, await given('1.1.0'));
  await beat(gw2!, await given('1.2.0'));
  for (const device of [gw1!, gw2!]) await beat(device, MANUAL);
  const floor = async (height: number, seq: number): Promise<void> => {
    const { publicKey } = (await world.store.getDevice(gw2!))!;
    const rest = { boot: Id.parse('boot-1'), agent: 'test', attributes: {}, deployments: [], audit: [] };
    await world.store.saveReports([
      { device: gw2!, publicKey, seq, at: world.now(), running: MANUAL, floor: height, ...rest },
    ]);
  };
  // Only the second cannot go back, which shows when the first is planned already.
  await floor(9, 1);
  const before = await kindsOf(world);
  const all = { devices: [gw1!, gw2!], by: 'ada' };
  expect(await reconcileDrift(world, all)).toMatchObject({ ok: false, code: 'conflict' });
  expect([await kindsOf(world), await world.store.listRollouts({ limit: 9 })]).toEqual([before, []]);
  const cohortNames = async () =>
    (await world.store.listCohorts()).map(({ name }) => name).filter((name) => name !== 'fleet');
  expect(await cohortNames()).toEqual([]);
  await floor(0, 2);
  const planned = must(await reconcileDrift(world, { devices: 'all', by: 'ada' }));
  expect(planned.map(({ plan }) => [plan.version, plan.waveSizes])).toEqual([
    ['1.1.0', [1]],
    ['1.2.0', [1]],
  ]);
  expect(await world.store.listRollouts({ limit: 9 })).toHaveLength(2);
  expect(await cohortNames()).toEqual(planned.map(({ plan }) => plan.cohorts[0]!.cohort).toSorted());
  expect((await kindsOf(world)).slice(before.length)).toEqual(
    [1, 2].flatMap(() => ['cohort-created', 'rollout-planned']),
  );
});

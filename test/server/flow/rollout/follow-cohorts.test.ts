import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { planRollout } from '#server/flow/rollout/plan-rollout.ts';
import { Id } from '#shared/ids.ts';
import { Policy } from '#shared/policy.ts';
import { line } from '#test/server/store/records.ts';
import {
  DAY,
  deploymentsOf,
  deviceOf,
  enrolFleet,
  GATEWAY,
  kindsOf,
  must,
  openWorld,
  PRODUCTION,
  releaseOf,
  report,
  run,
  T0,
  worldOfEachTest,
} from '../world.ts';

const world = worldOfEachTest();

const LYON = Id.parse('lyon');
const tag = (device: Id) => world.store.setDeviceTags(device, { site: 'lyon' }, line('device-tagged', { device }));
const start = async (follow: boolean, endBy?: number): Promise<Id> => {
  await world.store.createCohort(
    { name: LYON, members: { kind: 'selector', selector: 'site=lyon' }, createdAt: T0 },
    line('cohort-created'),
  );
  const cohorts = [{ cohort: LYON, waves: [{ count: 1 }, { percent: 100 }], follow }];
  const policy = Policy.parse({ gate: { soakMs: 0 } });
  const rollout = must(
    await planRollout(world, {
      product: GATEWAY,
      version: '1.1.0',
      channel: PRODUCTION,
      cohorts,
      policy,
      endBy,
      by: 'ada',
    }),
  ).plan.id;
  await run(world, rollout);
  return rollout;
};

test('a device that comes to match joins the last wave, once, and is offered to when that opens', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1, gw2, gw3] = await enrolFleet(world, 3);
  await tag(gw1!);
  await tag(gw2!);
  const rollout = await start(true);
  await tag(gw3!);
  world.pass(60_000);
  await run(world, rollout);
  world.pass(60_000);
  await run(world, rollout);
  const joined = (await deploymentsOf(world, rollout)).filter(({ device }) => device === gw3);
  expect(joined).toMatchObject([{ wave: 1, position: 1, state: 'planned' }]);
  expect((await world.store.getRollout(rollout))?.plan.waveSizes).toEqual([1, 2]);
  expect((await kindsOf(world)).filter((kind) => kind === 'rollout-joined')).toHaveLength(1);
  const [first] = await deploymentsOf(world, rollout);
  await report(world, first!, { outcome: 'committed' });
  await run(world, rollout);
  expect((await deviceOf(world, gw3!)).deployment).toBe(joined[0]!.id);
});

test('a frozen cohort takes no one in', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1, gw2] = await enrolFleet(world, 2);
  await tag(gw1!);
  const rollout = await start(false);
  await tag(gw2!);
  world.pass(60_000);
  await run(world, rollout);
  expect(await deploymentsOf(world, rollout)).toHaveLength(1);
});

test('with an end time it stays open for devices to come until then; without, it completes with the last one', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1, gw2] = await enrolFleet(world, 2);
  await tag(gw1!);
  const rollout = await start(true, T0 + 3_600_000);
  const [first] = await deploymentsOf(world, rollout);
  await report(world, first!, { outcome: 'committed' });
  expect((await run(world, rollout)).progress.state).toBe('running');
  await tag(gw2!);
  world.pass(600_000);
  await run(world, rollout);
  const [, second] = await deploymentsOf(world, rollout);
  await report(world, second!, { outcome: 'committed' });
  world.pass(3_000_000);
  expect((await run(world, rollout)).progress.state).toBe('completed');
});

test('no matter which come and go, each device joins once, into the last wave, at most one look every half minute; in the end all who match are in', async () => {
  const moves = fc.array(fc.record({ device: fc.nat(5), passMs: fc.constantFrom(0, 1_000, 20_000, 40_000) }), {
    maxLength: 12,
  });
  await fc.assert(
    fc.asyncProperty(moves, async (steps) => {
      await world.close();
      Object.assign(world, await openWorld());
      await releaseOf(world, '1.1.0');
      const fleet = await enrolFleet(world, 6);
      await tag(fleet[0]!);
      await tag(fleet[1]!);
      const rollout = await start(true, T0 + DAY);
      const matching = new Set([fleet[0], fleet[1]]);
      let looked = world.now();
      let size = 2;
      let early = 0;
      for (const { device, passMs } of steps) {
        await tag(fleet[device]!);
        matching.add(fleet[device]);
        world.pass(passMs);
        await run(world, rollout);
        const grown = (await deploymentsOf(world, rollout)).length;
        if (grown > size) {
          if (world.now() - looked < 30_000) early += 1;
          looked = world.now();
        }
        size = grown;
      }
      expect(early).toBe(0);
      world.pass(30_000);
      await run(world, rollout);
      const all = await deploymentsOf(world, rollout);
      expect(new Set(all.map(({ device }) => device))).toEqual(matching);
      expect(all).toHaveLength(matching.size);
      expect(all.slice(2).every(({ wave }) => wave === 1)).toBe(true);
      expect(new Set(all.filter(({ wave }) => wave === 1).map(({ position }) => position)).size).toBe(all.length - 1);
      expect((await world.store.getRollout(rollout))?.plan.waveSizes).toEqual([1, all.length - 1]);
    }),
    { numRuns: 5 },
  );
});

import { expect, test } from 'vitest';
import { rejectDevice } from '#server/flow/device/admit-device.ts';
import { planRollout } from '#server/flow/rollout/plan-rollout.ts';
import { reportRollout } from '#server/flow/rollout/report-rollout.ts';
import { startRollouts } from '#server/flow/rollout/rollouts.ts';
import { applyEvent, CLOCK_MS, runRollout } from '#server/flow/rollout/run-rollout.ts';
import { steerRollout } from '#server/flow/rollout/steer-rollout.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import { Id } from '#shared/ids.ts';
import { Policy } from '#shared/policy.ts';
import { line } from '#test/server/store/records.ts';
import {
  DAY,
  deploymentsOf,
  enrolFleet,
  GATEWAY,
  kindsOf,
  lastTold,
  must,
  PRODUCTION,
  releaseOf,
  report,
  run,
  startRollout,
  T0,
  type World,
  worldOfEachTest,
} from '../world.ts';

const world = worldOfEachTest();

const stateOf = async (rollout: Id) => (await world.store.getRollout(rollout))?.progress;
const statesOf = async (rollout: Id): Promise<string> =>
  (await deploymentsOf(world, rollout)).map(({ state }) => state).join(' ');
const steer = (rollout: Id, verb: 'pause' | 'resume' | 'abort', note = '') =>
  steerRollout(world, { rollout, verb, note, by: 'ada' });
const plan = (more: object) =>
  planRollout(world, {
    product: GATEWAY,
    version: '1.0.0',
    channel: PRODUCTION,
    cohorts: [{ cohort: Id.parse('fleet'), waves: [{ percent: 100 }] }],
    policy: Policy.parse({}),
    by: 'ada',
    ...more,
  });
/** No soak, so that gates open as soon as enough have committed. */
const QUICK = { gate: { soakMs: 0 } };

test('a rollout is offered to its first wave at once, and each device is told by a signed document of its own', async () => {
  const devices = await enrolFleet(world, 3);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0', { waves: [{ count: 1 }, { count: 3 }] });
  expect(await stateOf(rollout)).toMatchObject({ state: 'running', wave: 0 });
  expect((await statesOf(rollout)).split(' ').sort()).toEqual(['offered', 'planned', 'planned']);
  expect(devices.filter((device) => lastTold(world, device)?.kind === 'install')).toHaveLength(1);
  expect(await world.store.takeOutbox(10)).toEqual([]);
});

test('waves that shrink are refused: a person who wrote so meant each wave by itself', async () => {
  await enrolFleet(world, 3);
  await releaseOf(world, '1.0.0');
  expect(
    await plan({ cohorts: [{ cohort: Id.parse('fleet'), waves: [{ percent: 50 }, { percent: 20 }] }] }),
  ).toMatchObject({
    code: 'invalid-request',
    detail: expect.stringContaining('ends at 20 %'),
  });
});

test('the next wave opens when the gate is passed, and the rollout completes when all have committed', async () => {
  await enrolFleet(world, 3);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0', { waves: [{ count: 1 }, { count: 3 }], policy: QUICK });
  const [canary, ...others] = await deploymentsOf(world, rollout);
  await report(world, canary!, { state: 'trial' });
  await run(world, rollout);
  expect(await stateOf(rollout)).toMatchObject({ state: 'running', wave: 0 });
  await report(world, canary!, { outcome: 'committed' });
  await run(world, rollout);
  expect(await stateOf(rollout)).toMatchObject({ state: 'running', wave: 1 });
  world.pass(60_000);
  await run(world, rollout);
  for (const deployment of others) await report(world, deployment, { outcome: 'committed' });
  await run(world, rollout);
  expect(await stateOf(rollout)).toMatchObject({ state: 'completed' });
  expect(await kindsOf(world)).toEqual(expect.arrayContaining(['rollout-planned', 'wave-opened', 'rollout-completed']));
});

test('canaries that revert halt the rollout; the others are never touched', async () => {
  const devices = await enrolFleet(world, 8);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0', { waves: [{ count: 2 }, { count: 8 }] });
  const canaries = (await deploymentsOf(world, rollout)).filter(({ state }) => state === 'offered');
  expect(canaries).toHaveLength(2);
  for (const canary of canaries) await report(world, canary, { outcome: 'reverted' });
  await run(world, rollout);
  expect(await stateOf(rollout)).toMatchObject({ state: 'halted' });
  const told = devices.filter((device) => lastTold(world, device) !== undefined);
  expect(told).toHaveLength(2);
  const found = await world.store.getRollout(rollout);
  const { untouched, explanation } = await reportRollout(world, found!);
  expect(untouched).toBe(6);
  expect(explanation).toContain('Halted in wave 1');
});

test('a halt takes back the offers not acted on, but leaves trials to finish', async () => {
  await enrolFleet(world, 4);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0');
  const [first, second, third, fourth] = await deploymentsOf(world, rollout);
  await report(world, first!, { outcome: 'reverted' });
  await report(world, second!, { outcome: 'reverted' });
  await report(world, third!, { state: 'trial' });
  await report(world, fourth!, { state: 'fetching' });
  await run(world, rollout);
  expect(await statesOf(rollout)).toBe('reverted reverted trial withdrawn');
  expect(lastTold(world, fourth!.device)).toMatchObject({ kind: 'none' });
  expect(lastTold(world, third!.device)).toMatchObject({ kind: 'install' });
  // It had begun to fetch, so it does not count as untouched.
  expect((await reportRollout(world, (await world.store.getRollout(rollout))!)).untouched).toBe(0);
});

test('a device that accepts and then falls silent becomes overdue and counts as failed', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0');
  const [deployment] = await deploymentsOf(world, rollout);
  await report(world, deployment!, { state: 'fetching' });
  world.pass(3_600_001);
  await run(world, rollout);
  expect((await deploymentsOf(world, rollout))[0]).toMatchObject({ state: 'overdue', overdue: 'silent' });
  expect(await stateOf(rollout)).toMatchObject({ state: 'halted' });
});

test('a device that was never heard becomes overdue, is told to stay as it is, and does not count as failed', async () => {
  const [device] = await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0');
  world.pass(DAY + 1);
  await run(world, rollout);
  expect((await deploymentsOf(world, rollout))[0]).toMatchObject({ state: 'overdue', overdue: 'never-heard' });
  expect(await stateOf(rollout)).toMatchObject({ state: 'completed' });
  expect(lastTold(world, device!)).toMatchObject({ kind: 'none' });
  expect((await reportRollout(world, (await world.store.getRollout(rollout))!)).untouched).toBe(1);
});

test('a paused rollout offers to no one new until it is resumed', async () => {
  await enrolFleet(world, 3);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0', { waves: [{ count: 1 }, { count: 3 }], policy: QUICK });
  const [canary] = await deploymentsOf(world, rollout);
  must(await steer(rollout, 'pause', 'lunch'));
  await report(world, canary!, { outcome: 'committed' });
  await run(world, rollout);
  expect((await statesOf(rollout)).split(' ').sort()).toEqual(['committed', 'planned', 'planned']);
  must(await steer(rollout, 'resume'));
  expect((await statesOf(rollout)).split(' ').sort()).toEqual(['committed', 'offered', 'offered']);
});

test('an aborted rollout is over for good', async () => {
  await enrolFleet(world, 2);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0', { waves: [{ count: 1 }, { count: 2 }] });
  must(await steer(rollout, 'abort', 'never mind'));
  expect(await statesOf(rollout)).toBe('withdrawn withdrawn');
  expect(await steer(rollout, 'resume')).toMatchObject({ ok: false, code: 'conflict' });
  expect((await reportRollout(world, (await world.store.getRollout(rollout))!)).untouched).toBe(2);
});

test('after a halt a person may go on, saying why', async () => {
  await enrolFleet(world, 4);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0', { waves: [{ count: 2 }, { count: 4 }], policy: QUICK });
  for (const deployment of (await deploymentsOf(world, rollout)).slice(0, 2)) {
    await report(world, deployment, { outcome: 'failed' });
  }
  await run(world, rollout);
  expect(await steer(rollout, 'resume')).toMatchObject({ ok: false, code: 'invalid-request' });
  must(await steer(rollout, 'resume', 'these two were in water'));
  expect(await stateOf(rollout)).toMatchObject({ state: 'running' });
});

test('after a halt those whose offers it withdrew are offered again when a person goes on', async () => {
  await enrolFleet(world, 6);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0', { policy: QUICK });
  const [first, second, third, fourth, fifth] = await deploymentsOf(world, rollout);
  for (const bad of [first!, second!]) await report(world, bad, { outcome: 'reverted' });
  await report(world, third!, { state: 'fetching' });
  await run(world, rollout);
  expect(await statesOf(rollout)).toBe('reverted reverted withdrawn withdrawn withdrawn withdrawn');
  must(await rejectDevice(world, { device: fifth!.device, by: 'ada' }));

  must(await steer(rollout, 'resume', 'these two were in water'));
  await run(world, rollout);
  expect(await statesOf(rollout)).toBe('reverted reverted offered offered withdrawn offered');
  expect(lastTold(world, fourth!.device)).toMatchObject({ kind: 'install', deployment: fourth!.id });
  expect(await kindsOf(world)).toEqual(expect.arrayContaining(['rollout-halted', 'rollout-resumed', 'replanned']));
  for (const deployment of (await deploymentsOf(world, rollout)).filter(({ state }) => state === 'offered')) {
    await report(world, deployment, { outcome: 'committed' });
  }
  await run(world, rollout);
  expect(await stateOf(rollout)).toMatchObject({ state: 'completed' });
});

test('a rollout that starts later waits until then', async () => {
  const [device] = await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0', { startAt: T0 + 60_000 });
  expect(await stateOf(rollout)).toEqual({ state: 'scheduled', startAt: T0 + 60_000 });
  expect(await world.store.listDueRollouts(world.now(), 10)).toEqual([]);
  world.pass(60_000);
  await run(world, rollout);
  expect(lastTold(world, device!)).toMatchObject({ kind: 'install' });
});

test('only devices that are let in and have a bundle take part; the others are counted', async () => {
  await enrolFleet(world, 2);
  const enrol = (name: string, compatible: string) =>
    world.store.enrolDevice(
      {
        id: Id.parse(name),
        publicKey: '0'.repeat(64),
        compatible: Id.parse(compatible),
        attributes: {},
        enrolledAt: T0,
      },
      null,
      T0,
      line('device-enrolled'),
    );
  await enrol('waits', 'gw2');
  await enrol('other-model', 'gw9');
  await world.store.setDeviceState(Id.parse('other-model'), 'accepted', world.now(), line('device-accepted'));
  await world.store.createCohort(
    {
      name: Id.parse('mixed'),
      members: { kind: 'list', devices: ['gw-1', 'waits', 'other-model', 'nobody'].map((name) => Id.parse(name)) },
      createdAt: T0,
    },
    line('cohort-created'),
  );
  await world.store.createCohort(
    { name: Id.parse('all'), members: { kind: 'selector', selector: 'compatible=gw2' }, createdAt: T0 },
    line('cohort-created'),
  );
  await releaseOf(world, '1.0.0');
  const cohorts = ['mixed', 'all'].map((cohort) => ({ cohort: Id.parse(cohort), waves: [{ percent: 100 }] }));
  const planned = must(await plan({ cohorts }));
  // gw-1 by the first cohort, gw-2 by the second; `waits` is meant by both and counted once.
  expect(planned.plan).toMatchObject({ waveSizes: [1, 1], excluded: 3 });
  const lines = await world.store.readAudit(-1, 1000);
  expect(lines.at(-1)?.payload).toContain('"excluded":3');
});

test('what cannot be rolled out is refused with the reason', async () => {
  await enrolFleet(world, 1, 'gw9');
  expect(await plan({})).toMatchObject({ code: 'not-found' });
  await releaseOf(world, '1.0.0');
  expect(await plan({ channel: Id.parse('staging') })).toMatchObject({ code: 'conflict' });
  const fleet = { cohort: Id.parse('fleet'), waves: [{ percent: 100 }] };
  expect(await plan({ cohorts: [{ ...fleet, cohort: Id.parse('nobody') }] })).toMatchObject({ code: 'not-found' });
  expect(await plan({ cohorts: [fleet, fleet] })).toMatchObject({ code: 'invalid-request' });
  expect(await plan({})).toMatchObject({ code: 'conflict', detail: expect.stringContaining('left out') });
});

const isHeldByWindow = ({ progress }: RolloutRecord): boolean =>
  progress.state === 'running' && progress.hold?.kind === 'window';

test('two rollouts never own one device; the second waits for the first', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  await releaseOf(world, '1.1.0');
  const first = await startRollout(world, '1.0.0');
  const second = await startRollout(world, '1.1.0');
  expect([await statesOf(first), await statesOf(second)]).toEqual(['offered', 'planned']);
  await report(world, (await deploymentsOf(world, first))[0]!, { outcome: 'committed' });
  world.pass(60_000);
  await run(world, second);
  expect(await statesOf(second)).toBe('offered');
});

test('many at once move a rollout as one would', async () => {
  await enrolFleet(world, 5);
  await releaseOf(world, '1.0.0');
  const planned = must(await plan({}));
  const results = await Promise.all(Array.from({ length: 6 }, () => runRollout(world, planned.plan.id)));
  expect(results.every(({ ok }) => ok)).toBe(true);
  expect((await kindsOf(world)).filter((kind) => kind === 'rollout-started')).toHaveLength(1);
  expect(await statesOf(planned.plan.id)).toBe('offered offered offered offered offered');
});

test('the outbox survives a stop between recording and acting', async () => {
  const [device] = await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const planned = must(await plan({}));
  must(await runRollout(world, planned.plan.id));
  expect(lastTold(world, device!)).toBeUndefined();
  // Another process, as it were: it knows only the store.
  const rollouts = startRollouts({ ...world, onError: (error) => expect.unreachable(String(error)) });
  await expect.poll(() => lastTold(world, device!)?.kind).toBe('install');
  await rollouts.stop();
});

test('the ticker runs what is due and what is woken, and nothing after it was stopped', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const rollouts = startRollouts({ ...world, onError: (error) => expect.unreachable(String(error)) });
  const { plan: planned } = must(await plan({}));
  rollouts.wake(planned.id);
  await expect.poll(() => statesOf(planned.id)).toBe('offered');
  await rollouts.stop();
  await report(world, (await deploymentsOf(world, planned.id))[0]!, { outcome: 'committed' });
  rollouts.wake(planned.id);
  expect(await stateOf(planned.id)).toMatchObject({ state: 'running' });
});

test('a rollout that fails to run does not stop the others', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const errors: unknown[] = [];
  const failing: World['store'] = {
    ...world.store,
    getRelease: async (product, version) => {
      if (version === '1.0.0') throw new Error('disk I/O error');
      return world.store.getRelease(product, version);
    },
  };
  const bad = must(await plan({}));
  await releaseOf(world, '1.1.0');
  const good = must(await plan({ version: '1.1.0' }));
  const rollouts = startRollouts({
    ...world,
    store: failing,
    onError: (error, rollout) => errors.push([rollout, error]),
  });
  await expect.poll(() => statesOf(good.plan.id)).toBe('offered');
  await rollouts.stop();
  expect(errors[0]).toEqual([bad.plan.id, new Error('disk I/O error')]);
});

test('rollouts that wait and are looked at again and again let every other have its turn', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const at = (hour: number) => Policy.parse({ windows: [{ cron: `0 ${hour} * * *`, durationMs: 3_600_000 }] });
  // More than are looked at in one round.
  for (let n = 0; n < 100; n += 1) must(await plan({ policy: at(5) }));
  const last = must(await plan({ policy: at(2) })).plan.id;
  const rollouts = startRollouts({ ...world, onError: (error) => expect.unreachable(String(error)) });
  const waits = async () => (await world.store.listRollouts({ limit: 200 })).every(isHeldByWindow);
  await expect.poll(waits, { timeout: 60_000 }).toBe(true);
  world.pass(2 * 3_600_000);
  await expect.poll(() => statesOf(last), { timeout: 60_000 }).toBe('offered');
  await rollouts.stop();
}, 150_000);

test('rollouts that wait are looked at by the clock, however often another one is woken', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const { plan: busy } = must(await plan({}));
  let [listed, looked] = [0, 0];
  const store: World['store'] = {
    ...world.store,
    listDueRollouts: (...which) => {
      listed += 1;
      return world.store.listDueRollouts(...which);
    },
    getRollout: (id) => {
      looked += 1;
      return world.store.getRollout(id);
    },
  };
  const began = performance.now();
  const rollouts = startRollouts({ ...world, store, onError: (error) => expect.unreachable(String(error)) });
  const enough = (): boolean => {
    rollouts.wake(busy.id);
    return looked >= 100;
  };
  await expect.poll(enough, { interval: 5 }).toBe(true);
  await rollouts.stop();
  expect(listed).toBeLessThanOrEqual(2 + (performance.now() - began) / CLOCK_MS);
});

test('an event for a rollout that does not exist is refused', async () => {
  expect(await applyEvent(world, Id.parse('nothing'), { kind: 'tick' })).toMatchObject({ code: 'not-found' });
});

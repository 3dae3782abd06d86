import { expect, test } from 'vitest';
import { explainRollout } from '#server/domain/rollout/explain.ts';
import { receiveReports } from '#server/flow/device/receive-report.ts';
import { explainRollout as explainDecisions } from '#server/flow/rollout/explain-rollout.ts';
import { planRollout } from '#server/flow/rollout/plan-rollout.ts';
import { steerRollout } from '#server/flow/rollout/steer-rollout.ts';
import { Id } from '#shared/ids.ts';
import type { StateReport } from '#shared/messages.ts';
import { Policy } from '#shared/policy.ts';
import {
  deploymentsOf,
  enrolFleet,
  GATEWAY,
  lastTold,
  must,
  PRODUCTION,
  releaseOf,
  run,
  startRollout,
  T0,
  worldOfEachTest,
} from '../world.ts';

const HOUR = 3_600_000;
const world = worldOfEachTest();

let seq = 1_000;
/** What an agent says, through the same door as a real one. */
const say = async (device: Id, state: NonNullable<StateReport['deployment']>['state'], attributes = {}) => {
  const known = await world.store.getDevice(device);
  const id = known!.deployment ?? (await world.store.listDeployments({ device }, { limit: 1 }))[0]!.id;
  seq += 1;
  await receiveReports({ ...world, mayTell: () => true }, [
    {
      device,
      report: {
        v: 1,
        boot: Id.parse('boot-1'),
        seq,
        at: world.now(),
        agent: 'test',
        running: null,
        floor: 0,
        desiredSeq: 0,
        deployment: { id, state, since: world.now() },
        receipts: [],
        attributes,
      },
    },
  ]);
};
const NIGHT = { windows: [{ cron: '0 2 * * *', durationMs: HOUR }] };
const explained = async (rollout: Id) => {
  const record = (await world.store.getRollout(rollout))!;
  return explainRollout({ ...record.plan, progress: record.progress }, world.now());
};

const startWaiting = async (): Promise<{ rollout: Id; gw1: Id }> => {
  await releaseOf(world, '1.1.0');
  const [gw1] = await enrolFleet(world, 2);
  return { rollout: await startRollout(world, '1.1.0', { policy: NIGHT }), gw1: gw1! };
};

test('outside of its window no one is offered anything, and why is said; inside it goes on', async () => {
  const { rollout, gw1 } = await startWaiting();
  expect((await deploymentsOf(world, rollout)).map(({ state }) => state)).toEqual(['planned', 'planned']);
  expect(await explained(rollout)).toContain('waits for the maintenance window of fleet, which opens in 2 h');
  world.pass(2 * HOUR);
  await run(world, rollout);
  expect((await deploymentsOf(world, rollout)).map(({ state }) => state)).toEqual(['offered', 'offered']);
  const told = lastTold(world, gw1);
  expect(told?.kind === 'install' && told.windows?.[0]).toEqual({ opens: T0 + 2 * HOUR, closes: T0 + 3 * HOUR });
  expect(told?.kind === 'install' && told.windows).toHaveLength(8);
});

test('a rollout that waits for its window is saved when something changes, and not every second', async () => {
  const { rollout } = await startWaiting();
  const revision = async () => (await world.store.getRollout(rollout))?.revision;
  await run(world, rollout);
  const before = await revision();
  for (let second = 0; second < 100; second += 1) {
    world.pass(1_000);
    await run(world, rollout);
  }
  expect(await revision()).toBe(before);
  expect(await explained(rollout)).toContain('waits for the maintenance window of fleet, which opens in 1 h 58 min');
  expect((await world.store.listDueRollouts(world.now(), 10)).map(({ plan }) => plan.id)).toEqual([rollout]);
  world.pass(T0 + 2 * HOUR - world.now());
  await run(world, rollout);
  expect((await deploymentsOf(world, rollout)).map(({ state }) => state)).toContain('offered');
  const { items } = must(await explainDecisions(world, rollout, { limit: 100, verify: true }));
  expect(items.map(({ kinds, faults }) => [...kinds, ...faults!])).toEqual([
    ['offered'],
    ['held-by-window'],
    ['rollout-started', 'wave-opened'],
  ]);
});

test('each device is offered to in its own time zone', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1, gw2] = await enrolFleet(world, 2);
  const rollout = await startRollout(world, '1.1.0', { policy: NIGHT, startAt: T0 + HOUR });
  await say(gw1!, 'accepted', { timezone: 'Europe/Paris' }).catch(() => undefined);
  world.pass(HOUR); // 02:00 in Paris, 01:00 UTC
  await run(world, rollout);
  expect((await world.store.getDevice(gw1!))?.deployment).not.toBeNull();
  expect((await world.store.getDevice(gw2!))?.deployment).toBeNull();
});

test('a device that installed and waits for the next window is not at risk, and has its whole time from then', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1] = await enrolFleet(world, 1);
  const rollout = await startRollout(world, '1.1.0', { policy: NIGHT, startAt: T0 + 2 * HOUR });
  world.pass(2 * HOUR + 50 * 60_000);
  await run(world, rollout);
  await say(gw1!, 'fetching');
  world.pass(20 * 60_000);
  await say(gw1!, 'ready');
  const opens = T0 + 26 * HOUR;
  const [held] = await deploymentsOf(world, rollout);
  expect(held).toMatchObject({ state: 'ready', heldUntil: opens, deadlineAt: opens + HOUR });
  expect(await world.store.getOutcomeBins(rollout, 60_000)).toMatchObject([{ outcome: 'installed', devices: 1 }]);
  world.pass(10 * HOUR);
  await run(world, rollout);
  expect(await explained(rollout)).toContain('1 device has installed it and waits for its maintenance window');
  world.pass(opens - world.now());
  await run(world, rollout);
  const [released] = await deploymentsOf(world, rollout);
  expect(released).toMatchObject({ state: 'ready', heldUntil: null, acceptedAt: opens, deadlineAt: opens + HOUR });
});

test('windows that a device was told run out: it is told more', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1] = await enrolFleet(world, 1);
  const rollout = await startRollout(world, '1.1.0', {
    policy: { ...NIGHT, deadlines: { acceptMs: 30 * 24 * HOUR } },
    startAt: T0 + 2 * HOUR,
  });
  world.pass(2 * HOUR);
  await run(world, rollout);
  const before = lastTold(world, gw1!);
  world.pass(9 * 24 * HOUR);
  await run(world, rollout);
  await run(world, rollout);
  const after = lastTold(world, gw1!);
  expect(before?.kind === 'install' && after?.kind === 'install' && after.deployment === before.deployment).toBe(true);
  expect(after?.kind === 'install' && after.windows?.[0]?.opens).toBe(T0 + (9 * 24 + 2) * HOUR);
});

test('a device that moves to another time zone while it waits is told its windows there, and its wait moves', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1] = await enrolFleet(world, 1);
  const rollout = await startRollout(world, '1.1.0', { policy: NIGHT, startAt: T0 + 2 * HOUR });
  world.pass(2 * HOUR);
  await run(world, rollout);
  await say(gw1!, 'fetching');
  world.pass(2 * HOUR);
  await say(gw1!, 'ready');
  const utc = T0 + 26 * HOUR;
  expect((await deploymentsOf(world, rollout))[0]).toMatchObject({ heldUntil: utc, deadlineAt: utc + HOUR });
  await say(gw1!, 'ready', { timezone: 'America/New_York' });
  await run(world, rollout);
  const there = T0 + 7 * HOUR;
  const told = lastTold(world, gw1!);
  expect(told).toMatchObject({ zone: 'America/New_York', windows: expect.arrayContaining([]) });
  expect(told?.kind === 'install' && told.windows?.[0]?.opens).toBe(there);
  expect((await deploymentsOf(world, rollout))[0]).toMatchObject({ heldUntil: there, deadlineAt: there + HOUR });
  // Told once, not with every look.
  const pushed = world.link.pushed.get(gw1!)?.length;
  await run(world, rollout);
  expect(world.link.pushed.get(gw1!)?.length).toBe(pushed);
});

test('only a rollout that activates at a time lets devices do so without their server, unless the policy says otherwise', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1] = await enrolFleet(world, 1);
  const told = async (policy: Parameters<typeof Policy.parse>[0]) => {
    const rollout = await startRollout(world, '1.1.0', { policy });
    const instruction = lastTold(world, gw1!);
    must(await steerRollout(world, { rollout, verb: 'abort', note: '', by: 'ada' }));
    return instruction?.kind === 'install' ? instruction.confirm : undefined;
  };
  expect(await told({})).toBeUndefined();
  expect(await told({ activation: 'on-command' })).toBeUndefined();
  expect(await told({ activation: T0 + HOUR })).toBe('when-reachable');
  expect(await told({ activation: T0 + HOUR, confirm: 'required' })).toBeUndefined();
  expect(await told({ confirm: 'when-reachable' })).toBe('when-reachable');
});

test('a wave that opens on devices that wait installed says so, and does not call them committed', async () => {
  await releaseOf(world, '1.1.0');
  await enrolFleet(world, 2);
  const policy = { activation: 'on-command', gate: { soakMs: 0 } } as const;
  const rollout = await startRollout(world, '1.1.0', { policy, waves: [{ count: 1 }, { count: 2 }] });
  const [canary] = await deploymentsOf(world, rollout);
  await say(canary!.device, 'ready');
  await run(world, rollout);
  const lines = (await world.store.readAudit(-1, 1_000)).map(({ payload }) => payload);
  expect(lines.filter((line) => line.includes('"wave-opened"')).at(-1)).toContain(
    '1 of 1 reachable devices of wave 1 committed or wait installed, where 1 must',
  );
});

test('installed on command only: all wait in ready, and a command lets all of them go, once', async () => {
  await releaseOf(world, '1.1.0');
  const devices = await enrolFleet(world, 3);
  const rollout = await startRollout(world, '1.1.0', { policy: { activation: 'on-command' } });
  const told = lastTold(world, devices[0]!);
  expect(told?.kind === 'install' && told.activateAt).toBeNull();
  for (const device of devices) await say(device, 'ready');
  world.pass(5 * 24 * HOUR);
  await run(world, rollout);
  expect((await deploymentsOf(world, rollout)).map(({ state }) => state)).toEqual(['ready', 'ready', 'ready']);
  expect(await explained(rollout)).toContain('3 devices have installed it and wait to be told to activate it');

  must(await steerRollout(world, { rollout, verb: 'activate', note: 'now', by: 'ada' }));
  await run(world, rollout);
  const now = lastTold(world, devices[0]!);
  expect(now?.kind === 'install' && 'activateAt' in now).toBe(false);
  const [one] = await deploymentsOf(world, rollout);
  expect(one).toMatchObject({
    state: 'ready',
    heldUntil: null,
    acceptedAt: world.now(),
    deadlineAt: world.now() + HOUR,
  });
  expect(await steerRollout(world, { rollout, verb: 'activate', note: '', by: 'ada' })).toMatchObject({
    code: 'conflict',
  });
});

test('all activate at a time: devices know it, and are at risk from then on', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1] = await enrolFleet(world, 1);
  const rollout = await startRollout(world, '1.1.0', { policy: { activation: T0 + 5 * HOUR } });
  const told = lastTold(world, gw1!);
  expect(told?.kind === 'install' && told.activateAt).toBe(T0 + 5 * HOUR);
  await say(gw1!, 'ready');
  expect((await deploymentsOf(world, rollout))[0]).toMatchObject({
    heldUntil: T0 + 5 * HOUR,
    deadlineAt: T0 + 6 * HOUR,
  });
});

test('a halt takes installed devices back too', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1] = await enrolFleet(world, 1);
  const rollout = await startRollout(world, '1.1.0', { policy: { activation: 'on-command' } });
  await say(gw1!, 'ready');
  must(await steerRollout(world, { rollout, verb: 'abort', note: '', by: 'ada' }));
  await run(world, rollout);
  expect(lastTold(world, gw1!)?.kind).toBe('none');
});

test('a rollout whose time is over ends: what was not activated is taken back', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1, gw2] = await enrolFleet(world, 2);
  const planned = must(
    await planRollout(world, {
      product: GATEWAY,
      version: '1.1.0',
      channel: PRODUCTION,
      cohorts: [{ cohort: Id.parse('fleet'), waves: [{ percent: 100 }] }],
      policy: Policy.parse({}),
      endBy: T0 + HOUR / 2,
      by: 'ada',
    }),
  );
  const rollout = planned.plan.id;
  await run(world, rollout);
  await say(gw1!, 'trial');
  await say(gw2!, 'fetching');
  world.pass(HOUR / 2);
  expect((await run(world, rollout)).progress).toMatchObject({ state: 'aborted', by: 'server' });
  expect((await deploymentsOf(world, rollout)).map(({ state }) => state).sort()).toEqual(['trial', 'withdrawn']);
});

test('a plan with a window that never opens, or an end before its start, is refused', async () => {
  await releaseOf(world, '1.1.0');
  await enrolFleet(world, 1);
  const plan = (policy: object, endBy?: number) =>
    planRollout(world, {
      product: GATEWAY,
      version: '1.1.0',
      channel: PRODUCTION,
      cohorts: [{ cohort: Id.parse('fleet'), waves: [{ percent: 100 }] }],
      policy: Policy.parse(policy),
      endBy,
      by: 'ada',
    });
  expect(await plan({ windows: [{ cron: '0 2 * * *', durationMs: HOUR, timeZone: 'Mars/Base' }] })).toMatchObject({
    ok: false,
  });
  expect(await plan({}, T0 - 1)).toMatchObject({ ok: false, code: 'invalid-request' });
});

test('a device that reports an unknown time zone has its windows in the policy’s, and the explanation says so', async () => {
  await releaseOf(world, '1.1.0');
  const [gw1, gw2] = await enrolFleet(world, 2);
  const zones: [Id, string][] = [
    [gw1!, 'CET-1CEST,M3.5.0,M10.5.0/3'],
    [gw2!, 'Europe/Paris'],
  ];
  const windows = [{ cron: '0 2 * * *', durationMs: HOUR, timeZone: 'Europe/Rome' }];
  const rollout = await startRollout(world, '1.1.0', { policy: { windows } });
  for (const [device, timezone] of zones) await say(device, 'accepted', { timezone }).catch(() => undefined);
  await run(world, rollout);
  const { now } = must(await explainDecisions(world, rollout, { limit: 1, verify: false }));
  const [sentence] = now.reasons.map((reason) => reason.sentence).filter((text) => text.includes('not known here'));
  expect(sentence).toMatch(/"CET-1CEST,M3\.5\.0,M10\.5\.0\/3"\); theirs is Europe\/Rome/);
  expect(sentence).not.toContain('Paris');
});

/** Over HTTP, what an operator has beyond starting and stopping: time, order, activation, drift, followed cohorts. */
import { beforeEach, expect, test } from 'vitest';
import type { Running } from '#shared/deployment.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import { DriftView, NoticedView, RolloutView } from '#shared/views.ts';
import { line } from '#test/server/store/records.ts';
import { deploymentsOf, enrolFleet, GATEWAY, lastTold, releaseOf, report, run, T0, type World } from '../flow/world.ts';
import { type Answer, problemOf, withApi } from './rig.ts';

let world: World;
const call = withApi((api) => {
  ({ world } = api);
});
const post = (path: string, payload?: object): Promise<Answer> => call('operator', 'POST', path, payload);
const get = (path: string): Promise<Answer> => call('viewer', 'GET', path);
const HOUR = 3_600_000;
let devices: Id[];

beforeEach(async () => {
  await releaseOf(world, '1.1.0');
  devices = await enrolFleet(world, 2);
});

const FLEET = [{ cohort: 'fleet' }];
/** Planned over HTTP, and run as the server would. */
const start = async (more: object = {}): Promise<Id> => {
  const { status, body } = await post('rollouts', { release: 'gateway@1.1.0', cohorts: FLEET, policy: {}, ...more });
  expect([status, body.detail]).toEqual([201, undefined]);
  const { id } = RolloutView.parse(body);
  await run(world, id);
  return id;
};
const kinds = async (): Promise<string[]> =>
  (await get('audit?limit=200')).body.items.map((item: { kind: string }) => item.kind);

test('what is installed is activated by one call, once, and only where activation is separate', async () => {
  const waiting = await start({ policy: { activation: 'on-command' } });
  for (const one of await deploymentsOf(world, waiting)) await report(world, one, { state: 'ready' });
  expect(problemOf(await call('viewer', 'POST', `rollouts/${waiting}/activate`, {}))).toEqual([403, 'forbidden']);
  expect(problemOf(await call('ci', 'POST', `rollouts/${waiting}/activate`, {}))).toEqual([403, 'forbidden']);
  expect(problemOf(await post('rollouts/nowhere/activate', {}))).toEqual([404, 'not-found']);
  expect(problemOf(await post(`rollouts/${waiting}/activate`, { note: 7 }))).toEqual([400, 'invalid-request']);
  const activated = await post(`rollouts/${waiting}/activate`, { note: 'the party' });
  expect(activated).toMatchObject({ status: 200, body: { id: waiting, state: 'running' } });
  await run(world, waiting);
  expect(lastTold(world, devices[0]!)).not.toHaveProperty('activateAt');
  expect(problemOf(await post(`rollouts/${waiting}/activate`, {}))).toEqual([409, 'conflict']);
  expect((await kinds()).filter((kind) => kind === 'rollout-activated')).toHaveLength(1);
});

test('at-once rollouts have nothing to activate', async () => {
  const rollout = await start();
  const refused = await post(`rollouts/${rollout}/activate`, {});
  expect(problemOf(refused)).toEqual([409, 'conflict']);
  expect(refused.body.detail).toBe('Its devices activate the release as soon as they have installed it.');
});

test('the queue has rollouts in the order in which they get devices, and whom each waits for', async () => {
  expect((await get('rollout-queue')).body).toEqual({ items: [] });
  const low = await start();
  const urgent = await start({ policy: { priority: 90 } });
  const { status, body } = await get('rollout-queue');
  expect(status).toBe(200);
  expect(body.items).toMatchObject([
    { id: urgent, priority: 90, waitsFor: [] },
    { id: low, priority: 50, waitsFor: [{ rollout: urgent, devices: 2 }] },
  ]);
  expect((await get(`rollouts/${low}`)).body.explanation).toContain(`2 with ${urgent}`);
  await post(`rollouts/${urgent}/abort`, {});
  await run(world, low);
  expect((await get('rollout-queue')).body.items).toMatchObject([{ id: low, waitsFor: [] }]);
});

test.each([
  [
    'a time zone that does not exist',
    { policy: { windows: [{ cron: '0 2 * * *', durationMs: HOUR, timeZone: 'Mars/Base' }] } },
    'Mars/Base',
  ],
  [
    'an expression that never comes true',
    { policy: { windows: [{ cron: '0 2 30 2 *', durationMs: HOUR }] } },
    'never comes true',
  ],
  ['several openings an hour', { policy: { windows: [{ cron: '*/5 2 * * *', durationMs: HOUR }] } }, 'several windows'],
  ['a window without a duration', { policy: { windows: [{ cron: '0 2 * * *' }] } }, 'durationMs'],
  [
    'a window of a cohort that is none',
    { cohorts: [{ cohort: 'fleet', windows: [{ cron: 'at night', durationMs: HOUR }] }] },
    'five fields',
  ],
  ['an end before the start', { startAt: T0 + HOUR, endBy: T0 + HOUR }, 'end after it starts'],
  ['an end that is over', { endBy: T0 - 1 }, 'end after it starts'],
  ['a priority above all', { policy: { priority: 101 } }, 'priority'],
  ['an activation that is no time', { policy: { activation: 'tomorrow' } }, 'activation'],
  ['a confirmation no one knows', { policy: { confirm: 'perhaps' } }, 'confirm'],
])('%s is refused with what is wrong', async (_, more, why) => {
  const refused = await post('rollouts', { release: 'gateway@1.1.0', cohorts: FLEET, policy: {}, ...more });
  expect(problemOf(refused)).toEqual([400, 'invalid-request']);
  expect(JSON.stringify(refused.body)).toContain(why);
});

test('windows, priority, activation and times come back as they were given', async () => {
  const windows = [{ cron: '0 2 * * MON-FRI', durationMs: HOUR, timeZone: 'Europe/Paris', ofDevice: true }];
  const cohorts = [{ cohort: 'fleet', windows: [{ ...windows[0]!, ofDevice: false }], follow: true }];
  const policy = { windows, priority: 70, activation: T0 + 30 * HOUR, confirm: 'required' };
  const rollout = await start({ cohorts, policy, startAt: T0 + HOUR, endBy: T0 + 40 * HOUR });
  expect((await get(`rollouts/${rollout}`)).body).toMatchObject({ state: 'scheduled', cohorts, policy });
});

test.each([
  ['is past', T0 - HOUR, [`its start, ${new Date(T0 - HOUR).toISOString()}, is past: it starts at once`], 'running'],
  ['is now', T0, [], 'running'],
  ['is to come', T0 + HOUR, [], 'scheduled'],
])('a person who plans a start that %s is told so, or nothing', async (_, startAt, notices, state) => {
  const planned = await post('rollouts', { release: 'gateway@1.1.0', cohorts: FLEET, policy: {}, startAt });
  expect(NoticedView.parse(planned.body)).toMatchObject({ notices, state });
});

test.each([
  [
    'is past',
    T0 - HOUR,
    [
      `its activation, ${new Date(T0 - HOUR).toISOString()}, is past: each device activates as soon as it has installed`,
    ],
  ],
  ['is to come', T0 + HOUR, []],
])('a person who plans an activation that %s is told so, or nothing', async (_, activation, notices) => {
  const planned = await post('rollouts', { release: 'gateway@1.1.0', cohorts: FLEET, policy: { activation } });
  expect(NoticedView.parse(planned.body)).toMatchObject({ notices });
});

test('a followed cohort takes in who comes to match, and the rollout shows it', async () => {
  const [gw1, gw2] = devices;
  const tag = (device: Id) => world.store.setDeviceTags(device, { site: 'lyon' }, line('device-tagged', { device }));
  expect((await post('cohorts', { name: 'lyon', selector: 'site=lyon' })).status).toBe(201);
  await tag(gw1!);
  const rollout = await start({ cohorts: [{ cohort: 'lyon', follow: true }] });
  await tag(gw2!);
  world.pass(60_000);
  await run(world, rollout);
  const shown = (await get(`rollouts/${rollout}`)).body;
  expect(shown).toMatchObject({ devices: 2, waves: [{ devices: 2 }] });
  const { items } = (await get(`rollouts/${rollout}/deployments`)).body;
  expect(items.map(({ device }: { device: string }) => device)).toEqual([gw1, gw2]);
  expect(await kinds()).toContain('rollout-joined');
});

const runs = (version: string, manifest: string): Running => ({
  product: GATEWAY,
  version,
  manifest: Sha256.parse(manifest),
  slot: 'a',
});
const beat = async (device: Id, running: Running): Promise<void> => {
  world.pass(10_000);
  await world.store.saveHeartbeats([{ device, boot: Id.parse('boot-1'), at: world.now(), running, healthy: true }]);
};

test('drifted devices are listed in pages, adopted by name, and sent back together by an ordinary rollout', async () => {
  const [gw1, gw2] = devices;
  const staged = (await world.store.getRelease(GATEWAY, '1.1.0'))!.bundles[0]!.manifestSha256;
  const unknown = runs('0.9.0', 'b'.repeat(64));
  for (const device of devices) {
    await beat(device, runs('1.1.0', staged));
    await beat(device, unknown);
  }
  const first = await get('drift?limit=1');
  expect(first.body.items.map((one: unknown) => DriftView.parse(one).device)).toEqual([gw1]);
  const second = await get(`drift?limit=1&after=${first.body.next}`);
  expect(second.body.items).toMatchObject([{ device: gw2, expected: { version: '1.1.0' }, running: unknown }]);

  expect(problemOf(await call('viewer', 'POST', 'drift/reconcile', { devices }))).toEqual([403, 'forbidden']);
  expect(problemOf(await post('drift/reconcile', { devices: [] }))).toEqual([400, 'invalid-request']);
  const stranger = await post('drift/reconcile', { devices: ['gw-99'] });
  expect(problemOf(stranger)).toEqual([404, 'not-found']);
  expect(stranger.body.detail).toBe('there is no device gw-99');
  expect(problemOf(await call('ci', 'POST', `devices/${gw1}/adopt`, { note: '' }))).toEqual([403, 'forbidden']);

  const adopted = await post(`devices/${gw1}/adopt`, { note: 'field test' });
  expect(adopted).toMatchObject({ status: 200, body: { device: gw1, expected: unknown } });
  // Once: there is nothing to adopt any more, nor to send back.
  expect(problemOf(await post(`devices/${gw1}/adopt`, { note: '' }))).toEqual([404, 'not-found']);
  expect(problemOf(await post('drift/reconcile', { devices }))).toEqual([404, 'not-found']);

  const { status, body } = await post('drift/reconcile', { devices: [gw2, gw2] });
  expect([status, body.items.length]).toEqual([201, 1]);
  const back = RolloutView.parse(body.items[0]);
  expect(back).toMatchObject({ release: 'gateway@1.1.0', devices: 1 });
  await run(world, back.id);
  expect((await world.store.getDevice(gw2!))?.deployment).not.toBeNull();
  expect(await kinds()).toEqual(expect.arrayContaining(['device-drifted', 'drift-adopted', 'rollout-planned']));
});

test('a late regression shows on the rollout and on the device', async () => {
  const rollout = await start({ policy: { judge: { rule: 'percentage-after-minimum', percent: 100 } } });
  const [first] = await deploymentsOf(world, rollout);
  await report(world, first!, { outcome: 'committed' });
  await run(world, rollout);
  await report(world, (await world.store.getDeployments([first!.id]))[0]!, { outcome: 'reverted' });
  await run(world, rollout);
  const { items } = (await get(`rollouts/${rollout}/deployments`)).body;
  const shown = items.find(({ id }: { id: string }) => id === first!.id);
  expect(shown).toMatchObject({ state: 'reverted', did: 'reverted' });
  expect((await get(`rollouts/${rollout}`)).body.counts).toMatchObject({ reverted: 1 });
});

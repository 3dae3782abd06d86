/** Releases over HTTP: from channel to channel, and what they contain. */
import { expect, test } from 'vitest';
import { Channels } from '#server/domain/release/channel.ts';
import { Id } from '#shared/ids.ts';
import { ChangeView, RequirementsView } from '#shared/views.ts';
import { report, running } from '#test/server/store/records.ts';
import { enrolFleet, makeBundle, makeProduct, must, publish, type World } from '../flow/world.ts';
import { problemOf, withApi } from './rig.ts';

let world: World;
const call = withApi((api) => {
  ({ world } = api);
});

test('a release goes to the next channel when checks and people have said yes', async () => {
  const requires = { checks: ['e2e'], approvals: 1 };
  world.channels.splice(0, 9, ...Channels.parse(['staging', { name: 'production', requires }]));
  must(await makeProduct(world));
  must(await publish(world, [await makeBundle(world, '1.0.0')]));
  const at = 'releases/gateway@1.0.0';
  expect((await call('ci', 'POST', `${at}/stage`, { channel: 'staging' })).status).toBe(200);
  const refused = await call('ci', 'POST', `${at}/promote`, { to: 'production' });
  expect([...problemOf(refused), refused.body.detail]).toEqual([
    409,
    'requirements-unmet',
    'gateway@1.0.0 may not go to production yet: check e2e has not been reported; approvals: 0 of 1 given, from others than ci, ci-1',
  ]);
  const link = 'https://ci.example.com/812';
  expect((await call('ci', 'PUT', `${at}/checks/e2e`, { outcome: 'pass', link })).status).toBe(200);
  expect(problemOf(await call('ci', 'PUT', `${at}/checks/e2e`, { outcome: 'maybe' }))).toEqual([
    400,
    'invalid-request',
  ]);
  expect(problemOf(await call('ci', 'POST', `${at}/approve`, { channel: 'production' }))).toEqual([403, 'forbidden']);
  const approved = await call('operator', 'POST', `${at}/approve`, { channel: 'production', note: 'read it' });
  const view = RequirementsView.parse(approved.body);
  expect(view.channels).toMatchObject([
    { channel: 'staging', staged: true, met: true, requirements: [] },
    { channel: 'production', staged: false, met: true },
  ]);
  expect(view.channels[1]?.requirements).toContainEqual(expect.objectContaining({ kind: 'check', check: 'e2e' }));
  expect(view.checks).toMatchObject([{ check: 'e2e', outcome: 'pass', link, by: 'ci-1' }]);
  expect(view.approvals).toMatchObject([{ channel: 'production', by: 'operator-1', note: 'read it' }]);
  expect((await call('viewer', 'GET', `${at}/requirements`)).body).toEqual(approved.body);
  expect(problemOf(await call('operator', 'POST', `${at}/promote`, { to: 'production' }))).toEqual([
    409,
    'requirements-unmet',
  ]);
  const promoted = await call('ci', 'POST', `${at}/promote`, { to: 'production' });
  expect(promoted.body.progress).toEqual({ state: 'staged', channels: ['staging', 'production'] });
  expect(problemOf(await call('viewer', 'GET', 'releases/gateway@9.9.9/requirements'))).toEqual([404, 'not-found']);
});

test('a change is followed from its releases to the devices, and two releases are compared', async () => {
  must(await makeProduct(world));
  const [older, newer] = [
    await makeBundle(world, '1.0.0', { changes: ['GW-1', 'fix/a b'] }),
    await makeBundle(world, '1.1.0', { changes: ['GW-1', 'GW-2'] }),
  ];
  for (const bundle of [older, newer]) must(await publish(world, [bundle]));
  await call('ci', 'POST', 'releases/gateway@1.1.0/stage', { channel: 'staging' });
  const [device] = await enrolFleet(world, 4);
  const manifest = (await world.store.getRelease(Id.parse('gateway'), '1.1.0'))!.bundles[0]!.manifestSha256;
  const { publicKey } = (await world.store.getDevice(device!))!;
  await world.store.saveReports([report(device!, 1, { publicKey, running: running(manifest) })]);

  const found = await call('viewer', 'GET', 'changes/GW-1');
  expect(ChangeView.parse(found.body)).toEqual({
    change: 'GW-1',
    releases: [
      {
        release: 'gateway@1.1.0',
        state: 'staged',
        channels: ['staging'],
        bundles: [{ compatible: 'gw2', devices: 1 }],
      },
      { release: 'gateway@1.0.0', state: 'accepted', channels: [], bundles: [{ compatible: 'gw2', devices: 0 }] },
    ],
    running: 1,
    fleet: 4,
    share: 0.25,
  });
  expect((await call('viewer', 'GET', 'changes/GW-1/devices')).body).toEqual({
    items: [{ device: 'gw-1', release: 'gateway@1.1.0', compatible: 'gw2', online: true }],
    next: null,
  });
  expect((await call('viewer', 'GET', `changes/${encodeURIComponent('fix/a b')}`)).body).toMatchObject({ running: 0 });
  expect(problemOf(await call('viewer', 'GET', 'changes/GW-9'))).toEqual([404, 'not-found']);
  const diff = await call('viewer', 'GET', 'releases/gateway@1.0.0/diff/gateway@1.1.0');
  expect(diff.body).toEqual({
    from: 'gateway@1.0.0',
    to: 'gateway@1.1.0',
    added: [{ change: 'GW-2', compatibles: ['gw2'] }],
    removed: [{ change: 'fix/a b', compatibles: ['gw2'] }],
  });
  expect(problemOf(await call('viewer', 'GET', 'releases/gateway@1.0.0/diff/gateway@9.9.9'))).toEqual([
    404,
    'not-found',
  ]);
  expect(problemOf(await call('viewer', 'GET', 'releases/gateway@1.0.0/diff/other@1.0.0'))).toEqual([
    400,
    'invalid-request',
  ]);
});

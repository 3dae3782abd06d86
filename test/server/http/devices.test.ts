/** Devices over HTTP: let in, tagged, shut out, and named as cohorts. */
import { expect, test } from 'vitest';
import { Id } from '#shared/ids.ts';
import { DeviceView } from '#shared/views.ts';
import { line } from '#test/server/store/records.ts';
import { enrolFleet, type World } from '../flow/world.ts';
import { problemOf, withApi } from './rig.ts';

let world: World;
const call = withApi((api) => {
  ({ world } = api);
});

test('devices are listed by selector, let in, tagged and shut out', async () => {
  await enrolFleet(world, 3);
  const device = Id.parse('new-1');
  await world.store.enrolDevice(
    { id: device, publicKey: '0'.repeat(64), compatible: Id.parse('gw3'), attributes: { model: 'x' }, enrolledAt: 1 },
    null,
    1,
    line('device-enrolled', { device }),
  );
  expect((await call('viewer', 'GET', 'devices?state=pending')).body.items).toHaveLength(1);
  expect((await call('operator', 'POST', 'devices/new-1/accept')).body.state).toBe('accepted');
  const tagged = await call('operator', 'PATCH', 'devices/new-1/tags', { tags: { site: 'lyon', floor: '2' } });
  expect(DeviceView.parse(tagged.body).tags).toEqual({ site: 'lyon', floor: '2' });
  const untagged = await call('operator', 'PATCH', 'devices/new-1/tags', { tags: { floor: '' } });
  expect(untagged.body.tags).toEqual({ site: 'lyon' });
  const query = encodeURIComponent('site=lyon and model=x');
  const found = await call('viewer', 'GET', `devices?selector=${query}`);
  expect(found.body.items.map((item: DeviceView) => item.id)).toEqual(['new-1']);
  expect(problemOf(await call('viewer', 'GET', 'devices?selector=site%3D'))).toEqual([422, 'selector-invalid']);
  expect((await call('operator', 'POST', 'devices/new-1/reject')).body.state).toBe('rejected');
  expect(world.link.disconnected).toEqual(['new-1']);
  expect(problemOf(await call('operator', 'POST', 'devices/nobody/accept'))).toEqual([404, 'not-found']);
  const history = await call('viewer', 'GET', 'devices/new-1/history?limit=2');
  expect(history.body.entries.map((entry: { kind: string }) => entry.kind)).toEqual([
    'device-rejected',
    'device-tagged',
  ]);
  const older = await call('viewer', 'GET', `devices/new-1/history?after=${history.body.next}`);
  expect(older.body.next).toBeNull();
  expect(problemOf(await call('viewer', 'GET', 'devices/new-1/history?after=x'))).toEqual([400, 'invalid-request']);
});

test('enrolment tokens carry the digest of the trust root, and only their digests are kept', async () => {
  const made = await call('operator', 'POST', 'enrolment-tokens', { count: 2, tags: { site: 'lyon' } });
  expect(made.status).toBe(201);
  expect(new Set(made.body.tokens).size).toBe(2);
  const root = Buffer.from(world.repository.rootSha256, 'hex').toString('base64url');
  for (const token of made.body.tokens) expect(token).toMatch(new RegExp(`^sle_[A-Za-z0-9_-]{43}_${root}$`));
  const log = (await world.store.readAudit(-1, 100)).map(({ payload }) => payload).join();
  for (const token of made.body.tokens) expect(log).not.toContain(token);
  const many = await call('operator', 'POST', 'enrolment-tokens', { count: 2, device: 'gw-1' });
  expect(problemOf(many)).toEqual([400, 'invalid-request']);
});

test('cohorts say how many devices they mean now, and do not change', async () => {
  await enrolFleet(world, 3);
  const made = await call('operator', 'POST', 'cohorts', { name: 'first-two', selector: 'id in (gw-1, gw-2)' });
  expect([made.status, made.body.devices]).toEqual([201, 2]);
  expect(problemOf(await call('operator', 'POST', 'cohorts', { name: 'first-two', devices: ['a'] }))).toEqual([
    409,
    'already-exists',
  ]);
  expect(problemOf(await call('operator', 'POST', 'cohorts', { name: 'bad', selector: 'site=' }))).toEqual([
    422,
    'selector-invalid',
  ]);
  expect(problemOf(await call('operator', 'POST', 'cohorts', { name: 'bad' }))).toEqual([400, 'invalid-request']);
  const list = await call('viewer', 'GET', 'cohorts');
  expect(list.body.items.map((item: { name: string; devices: number }) => [item.name, item.devices])).toEqual([
    ['first-two', 2],
    ['fleet', 3],
  ]);
});

import { expect, test } from 'vitest';
import { Id } from '#shared/ids.ts';
import { enrolFleet, type World } from '../flow/world.ts';
import { problemOf, withApi } from './rig.ts';

let world: World;
const call = withApi((api) => {
  ({ world } = api);
});
const GW1 = Id.parse('gw-1');
const piece = (name: string, deployment: string | null) => ({
  device: GW1,
  id: Id.parse(name),
  boot: Id.parse('boot-1'),
  deployment: deployment === null ? null : Id.parse(deployment),
  source: 'application' as const,
  part: 1,
  parts: 1,
  at: 5,
  receivedAt: 7,
  text: 'any\u001b[2J characters',
});

test('anyone who may read devices reads their logs, page by page or of one deployment', async () => {
  await enrolFleet(world, 1);
  await world.store.saveDeviceLogs([piece('one', 'dep-1'), piece('two', null), piece('three', 'dep-1')], 10_000);
  const first = await call('viewer', 'GET', 'devices/gw-1/logs?limit=2');
  expect(first.body.items.map(({ id }: { id: string }) => id)).toEqual(['three', 'two']);
  const { device: _, ...told } = piece('three', 'dep-1');
  expect(first.body.items[0]).toEqual(told);
  const rest = await call('viewer', 'GET', `devices/gw-1/logs?limit=2&after=${first.body.next}`);
  expect(rest.body).toMatchObject({ items: [{ id: 'one' }], next: null });
  const ofOne = await call('viewer', 'GET', 'devices/gw-1/logs?deployment=dep-1');
  expect(ofOne.body.items.map(({ id }: { id: string }) => id)).toEqual(['three', 'one']);
  expect(problemOf(await call('viewer', 'GET', 'devices/nobody/logs'))).toEqual([404, 'not-found']);
  expect(problemOf(await call('viewer', 'GET', 'devices/gw-1/logs?after=x'))).toEqual([400, 'invalid-request']);
});

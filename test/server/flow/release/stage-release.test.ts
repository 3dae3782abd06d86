import { expect, test } from 'vitest';
import { stageRelease } from '#server/flow/release/stage-release.ts';
import { withdrawRelease } from '#server/flow/rollout/withdraw-release.ts';
import { Id } from '#shared/ids.ts';
import {
  enrolFleet,
  GATEWAY,
  kindsOf,
  lastTold,
  makeBundle,
  makeProduct,
  must,
  PRODUCTION,
  publish,
  releaseOf,
  run,
  startRollout,
  worldOfEachTest,
} from '../world.ts';

const world = worldOfEachTest();

const stage = (channel = PRODUCTION, version = '1.0.0') =>
  stageRelease(world, { product: GATEWAY, version, channel, by: 'ada' });
const withdraw = (reason = 'it is bad') =>
  withdrawRelease(world, { product: GATEWAY, version: '1.0.0', reason, by: 'ada' });
const published = async (): Promise<string | undefined> => {
  const snapshot = JSON.parse((await world.repository.read('metadata', 'timestamp.json'))?.toString() ?? '{}');
  const version = snapshot.signed.meta['snapshot.json'].version;
  const file = await world.repository.read('metadata', `${version}.snapshot.json`);
  return JSON.parse(file?.toString() ?? '{}').signed.meta['ci-gateway.json']?.version;
};

test('staging publishes the CI metadata under the countersignature of the server', async () => {
  must(await makeProduct(world));
  must(await publish(world, [await makeBundle(world, '1.0.0')]));
  expect((await stage()).ok).toBe(true);
  expect(await published()).toBe(1);
  expect((await world.store.getRelease(GATEWAY, '1.0.0'))?.progress).toEqual({
    state: 'staged',
    channels: ['production'],
  });
});

test('a release is promoted from one channel to the next, and staging twice changes nothing', async () => {
  must(await makeProduct(world));
  must(await publish(world, [await makeBundle(world, '1.0.0')]));
  must(await stage(Id.parse('staging')));
  expect(must(await stage()).progress).toEqual({ state: 'staged', channels: ['staging', 'production'] });
  const before = await kindsOf(world);
  must(await stage());
  expect(await kindsOf(world)).toEqual(before);
});

test('staging an earlier release after a later one does not take the later one back', async () => {
  must(await makeProduct(world));
  must(await publish(world, [await makeBundle(world, '1.0.0')]));
  must(await publish(world, [await makeBundle(world, '1.0.1')]));
  must(await stage(PRODUCTION, '1.0.1'));
  must(await stage(PRODUCTION, '1.0.0'));
  expect(await published()).toBe(2);
});

test('an unknown channel, an unknown release and a withdrawn release are refused', async () => {
  must(await makeProduct(world));
  must(await publish(world, [await makeBundle(world, '1.0.0')]));
  expect(await stage(Id.parse('nightly'))).toMatchObject({ code: 'invalid-request' });
  expect(await stage(PRODUCTION, '9.9.9')).toMatchObject({ code: 'not-found' });
  must(await withdraw());
  expect(await stage()).toMatchObject({ code: 'conflict' });
});

test('withdrawing a release halts its rollouts and takes back the offers', async () => {
  const [device] = await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0');
  expect(lastTold(world, device!)).toMatchObject({ kind: 'install', version: '1.0.0' });
  must(await withdraw('it melts'));
  expect((await world.store.getRollout(rollout))?.progress).toMatchObject({
    state: 'halted',
    reason: { kind: 'release-withdrawn', by: 'ada' },
  });
  await run(world, rollout);
  expect(lastTold(world, device!)).toMatchObject({ kind: 'none' });
  expect(must(await withdraw('again')).progress).toMatchObject({ state: 'withdrawn', reason: 'it melts' });
});

test('a server that stopped between a withdrawal and the halt halts at its next tick', async () => {
  await enrolFleet(world, 1);
  await releaseOf(world, '1.0.0');
  const rollout = await startRollout(world, '1.0.0');
  const release = await world.store.getRelease(GATEWAY, '1.0.0');
  const withdrawn = { state: 'withdrawn' as const, at: world.now(), by: 'ada', reason: 'bad' };
  await world.store.saveRelease(GATEWAY, '1.0.0', release!.progress, withdrawn, { payload: '{"kind":"x"}' });
  expect((await run(world, rollout)).progress.state).toBe('halted');
});

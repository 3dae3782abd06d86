import { expect, test } from 'vitest';
import { makeSpread } from '#server/flow/device/spread.ts';
import { enrolFleet, worldOfEachTest } from '../world.ts';

const world = worldOfEachTest();

test('the width is that of the devices that were let in', async () => {
  const spread = async () => (await makeSpread({ ...world, connectsPerSecond: 2, onError: () => undefined }))();
  expect(await spread()).toBeUndefined();
  await enrolFleet(world, 2);
  expect(await spread()).toBeUndefined();
  await enrolFleet(world, 9);
  expect(await spread()).toBe(5_000);
});

import { beforeEach, expect, test } from 'vitest';
import { resumeRollout } from '#server/flow/rollout/resume-rollout.ts';
import { applyEvent } from '#server/flow/rollout/run-rollout.ts';
import { Id } from '#shared/ids.ts';
import { speakingDevice } from '../device/speaking-device.ts';
import { enrolFleet, lastTold, releaseOf, run, startRollout, worldOfEachTest } from '../world.ts';

const GW1 = Id.parse('gw-1');
const world = worldOfEachTest();
beforeEach(async () => {
  await releaseOf(world, '1.0.0');
});

const begin = async (devices: number, policy: object = {}) => {
  await enrolFleet(world, devices);
  const rollout = await startRollout(world, '1.0.0', { policy });
  return { rollout, device: speakingDevice(world, rollout, GW1) };
};
const coolDown = async (rollout: Id): Promise<void> => {
  world.pass(10_000_000);
  await run(world, rollout);
};

test('the receipt of a failed attempt, repeated before its acknowledgement came, uses up one retry and no second', async () => {
  const { rollout, device } = await begin(1);
  await device.is('fetching');
  const again = await device.ends('failed', 'FETCH_FAILED');
  expect(await device.deployment()).toMatchObject({ state: 'planned', attempts: { failed: 1 } });
  await again();
  expect(await device.deployment()).toMatchObject({ state: 'planned', attempts: { failed: 1 } });
  await coolDown(rollout);
  expect(await device.deployment()).toMatchObject({ state: 'offered', offers: 2 });
  await again();
  expect(await device.deployment()).toMatchObject({ state: 'offered', acceptedAt: null, attempts: { failed: 1 } });
  expect(lastTold(world, GW1)).toMatchObject({ kind: 'install', attempt: 2 });
  // Its second attempt is another matter.
  await device.ends('failed', 'FETCH_FAILED', 2);
  expect(await device.deployment()).toMatchObject({ state: 'planned', attempts: { failed: 2 } });
});

test('every attempt has its receipt in the log, however often its user defers, and however late the receipt is', async () => {
  const { rollout, device } = await begin(1);
  for (let attempt = 1; attempt <= 12; attempt += 1) {
    expect(await device.deployment()).toMatchObject({ state: 'offered' });
    await device.is('fetching', attempt);
    // What it says moves the deployment before its receipt is signed.
    await device.fails('INSTRUCTION_EXPIRED', attempt);
    await device.ends('failed', 'INSTRUCTION_EXPIRED', attempt);
    await coolDown(rollout);
  }
  const lines = await world.store.listDeviceAudit(GW1, { limit: 1_000 });
  expect(lines.filter(({ payload }) => payload.includes('"kind":"receipt"'))).toHaveLength(12);
});

const haltAndResume = async (rollout: Id): Promise<void> => {
  await run(world, rollout);
  const halted = await world.store.getRollout(rollout);
  expect(halted?.progress.state).toBe('halted');
  const resumed = await resumeRollout({ store: world.store, now: world.now }, { rollout, note: 'go on', by: 'ada' });
  expect(resumed.ok).toBe(true);
  await run(world, rollout);
};

test('a device that withdraws what a halt took back does not withdraw what it was offered since', async () => {
  const { rollout, device } = await begin(2, { judge: { rule: 'evidence', budget: 2 } });
  await device.is('fetching');
  await speakingDevice(world, rollout, Id.parse('gw-2')).ends('reverted', 'TRIAL_CRASHED');
  await haltAndResume(rollout);
  expect(await device.deployment()).toMatchObject({ state: 'offered', offers: 2 });
  await device.ends('withdrawn');
  expect(await device.deployment()).toMatchObject({ state: 'offered', acceptedAt: null });
  expect(await world.store.getDevice(GW1)).toMatchObject({ deployment: (await device.deployment()).id });
  await device.is('fetching', 2);
  await device.is('trial', 2);
  await device.ends('committed', undefined, 2);
  expect(await device.deployment()).toMatchObject({ state: 'committed' });
  expect((await run(world, rollout)).progress.state).toBe('completed');
});

test('late progress of the withdrawn attempt starts no clock; an activation that the withdrawal came too late for is believed', async () => {
  const { rollout, device } = await begin(2, { judge: { rule: 'evidence', budget: 2 } });
  await device.is('fetching');
  await speakingDevice(world, rollout, Id.parse('gw-2')).ends('reverted', 'TRIAL_CRASHED');
  await haltAndResume(rollout);
  await device.is('verified');
  expect(await device.deployment()).toMatchObject({ state: 'offered', acceptedAt: null });
  await device.is('activating');
  expect(await device.deployment()).toMatchObject({ state: 'trial' });
  await device.ends('committed');
  expect(await device.deployment()).toMatchObject({ state: 'committed' });
});

test('a failure for a final cause counts, whichever attempt it was', async () => {
  const { rollout, device } = await begin(1);
  await device.ends('failed', 'FETCH_FAILED');
  await coolDown(rollout);
  await device.ends('failed', 'TARGET_HASH');
  expect(await device.deployment()).toMatchObject({ state: 'failed' });
  expect((await applyEvent(world, rollout, { kind: 'tick' })).ok).toBe(true);
});

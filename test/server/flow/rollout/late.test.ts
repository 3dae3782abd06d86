/* oxlint-disable vitest/no-standalone-expect -- what holds before and after each of these tests is told apart from what each is about */
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { deviceProgressOf } from '#server/domain/deployment/device-progress.ts';
import { deviceHistory } from '#server/flow/device/device-history.ts';
import type { AgentState } from '#shared/deployment.ts';
import { Id } from '#shared/ids.ts';
import { speakingDevice } from '../device/speaking-device.ts';
import { enrolFleet, lastTold, must, releaseOf, run, startRollout, worldOfEachTest } from '../world.ts';

const GW1 = Id.parse('gw-1');
const MINUTE = 60_000;
const world = worldOfEachTest();
let rollout: Id;
let device: ReturnType<typeof speakingDevice>;
beforeEach(async () => {
  await releaseOf(world, '1.0.0');
  await enrolFleet(world, 1);
  rollout = await startRollout(world, '1.0.0', { policy: { deadlines: { acceptMs: 30 * MINUTE } } });
  device = speakingDevice(world, rollout, GW1);
});

const neverHeard = async (): Promise<void> => {
  world.pass(30 * MINUTE);
  await run(world, rollout);
};
const silentIn = (state: AgentState) => async (): Promise<void> => {
  await device.is(state);
  world.pass(60 * MINUTE);
  await run(world, rollout);
};
const stuckIn = (state: AgentState) => async (): Promise<void> => {
  await device.is(state);
  world.pass(59 * MINUTE);
  await device.heartbeat('0.9.0');
  world.pass(MINUTE);
  await run(world, rollout);
};
const CLASSES: [string, () => Promise<void>, object][] = [
  ['never heard', neverHeard, { overdue: 'never-heard', reached: 'offered' }],
  ['silent in trial', silentIn('trial'), { overdue: 'silent', reached: 'trial' }],
  ['silent in fetching', silentIn('fetching'), { overdue: 'silent', reached: 'fetching' }],
  ['stuck in trial', stuckIn('trial'), { overdue: 'stuck', reached: 'trial' }],
  ['stuck in installing', stuckIn('verified'), { overdue: 'stuck', reached: 'installing' }],
];

describe.each(CLASSES)('a device that is overdue, %s, and turns up', (name, givenUp, expected) => {
  beforeEach(async () => {
    await givenUp();
    expect(await device.deployment()).toMatchObject({ state: 'overdue', ...expected });
  });
  afterEach(async () => {
    expect(await world.store.countDeployments(rollout)).toEqual(await world.store.recountDeployments(rollout));
  });

  test('having committed is healthy', async () => {
    await device.ends('committed');
    expect(await device.deployment()).toMatchObject({ state: 'committed', overdue: null });
    await device.idles('1.0.0');
    expect(await device.deployment()).toMatchObject({ state: 'committed' });
  });

  test('having reverted has reverted', async () => {
    await device.ends('reverted', 'TRIAL_DEADLINE');
    expect(await device.deployment()).toMatchObject({ state: 'reverted', error: { code: 'TRIAL_DEADLINE' } });
  });

  test('having withdrawn, as it was told to, is excused unless it was there all the time', async () => {
    expect(lastTold(world, GW1)).toMatchObject({ kind: 'none' });
    await device.ends('withdrawn');
    expect(await device.deployment()).toMatchObject({ state: name.startsWith('stuck') ? 'overdue' : 'withdrawn' });
  });

  test('and runs the release, without its receipt, is not taken for healthy', async () => {
    await device.idles('1.0.0');
    expect(await device.deployment()).toMatchObject({ state: 'overdue' });
  });

  test('and runs something else, without knowing why, went back when it was on trial, and never began when it was away before', async () => {
    await device.idles('0.9.0');
    const states: Record<string, string> = { 'silent in fetching': 'withdrawn' };
    const state = name.endsWith('in trial') ? 'reverted' : (states[name] ?? 'overdue');
    const now = await device.deployment();
    expect(now).toMatchObject({ state });
    expect(state === 'reverted' ? now.error?.code : now.error).toBe(state === 'reverted' ? 'JOURNAL_LOST' : null);
    const did = {
      reverted: 'reverted',
      withdrawn: 'fetching',
      overdue: name === 'never heard' ? 'nothing' : 'installed',
    };
    expect(deviceProgressOf(now)).toBe(did[state as 'reverted']);
  });

  test('is told with its class, and where it stopped, in its history', async () => {
    const history = must(await deviceHistory(world, GW1, { limit: 20 }));
    const words = name === 'never heard' ? 'never took the offer up' : name.replace('stuck in', 'got stuck in');
    expect(history.entries.map(({ sentence }) => sentence).join('\n')).toContain(words);
  });
});

// Found by hand: the log said that no one had told it to run what it was on trial of.
test('a device that is still on trial of what was given up drifts only when it stays with it', async () => {
  await device.idles('0.9.0');
  await stuckIn('trial')();
  expect(await device.deployment()).toMatchObject({ state: 'overdue' });
  await device.is('trial', 1, '1.0.0');
  expect(await world.store.countDrifted()).toBe(0);
  await device.idles('1.0.0');
  expect(await world.store.countDrifted()).toBe(1);
});

test('what a device runs that was offered something else since tells nothing about what it was given up with', async () => {
  await silentIn('trial')();
  await releaseOf(world, '1.1.0');
  const next = await startRollout(world, '1.1.0');
  await speakingDevice(world, next, GW1).heartbeat('1.1.0');
  await device.idles('1.1.0');
  expect(await device.deployment()).toMatchObject({ state: 'overdue', overdue: 'silent' });
});

test('a device that never took the offer up in time has its whole time when it does so late', async () => {
  await neverHeard();
  await device.is('accepted');
  expect(await device.deployment()).toMatchObject({ state: 'offered', deadlineAt: world.now() + 60 * MINUTE });
});

/** Two devices with one key: found once, said once, and offered nothing until it is over. */
import { expect, test } from 'vitest';
import { parseAuditEvent } from '#server/domain/audit.ts';
import { watchSharedKeys } from '#server/flow/device/shared-keys.ts';
import { explainRollout } from '#server/flow/rollout/explain-rollout.ts';
import { Id } from '#shared/ids.ts';
import { deploymentsOf, enrolFleet, must, releaseOf, run, startRollout, worldOfEachTest } from '../world.ts';

const world = worldOfEachTest();
const GW1 = Id.parse('gw-1');
const [A, B] = [Id.parse('boot-a'), Id.parse('boot-b')];
const HOUR_MS = 3_600_000;

const watch = () => {
  const said: string[] = [];
  const counted = { shared: 0 };
  const keys = watchSharedKeys({
    store: world.store,
    now: world.now,
    observer: { keyShared: () => void (counted.shared += 1) },
    log: {
      warn: (facts: { event: string }) => void said.push(facts.event),
      error: (facts: { event: string }) => void said.push(`failed: ${facts.event}`),
    },
  });
  const hear = async (...boots: Id[]): Promise<void> => {
    for (const boot of boots) keys.heard(GW1, boot);
    await keys.stop();
  };
  return { said, counted, keys, hear };
};
const lines = async (): Promise<number> => {
  const entries = await world.store.readAudit(0, 1_000);
  return entries.filter(({ payload }) => parseAuditEvent(payload)?.kind === 'key-shared').length;
};
const sharedAt = async () => (await world.store.getDevice(GW1))?.keySharedAt;

test('a life that is over speaks again: said once while it goes on, and again when it begins again', async () => {
  await enrolFleet(world, 2);
  const { said, counted, hear } = watch();
  await hear(A, A, B, B);
  expect(await sharedAt()).toBeUndefined();
  await hear(A);
  expect(await sharedAt()).toBe(world.now());
  for (let turn = 0; turn < 20; turn += 1) {
    world.pass(600_000);
    await hear(B, A);
  }
  expect(await sharedAt()).toBe(world.now());
  expect([said, counted.shared, await lines()]).toEqual([['key-shared'], 1, 1]);
  world.pass(2 * HOUR_MS);
  await hear(B);
  expect([said.length, counted.shared, await lines()]).toEqual([2, 2, 2]);
});

test('a server that was restarted meanwhile does not say it again', async () => {
  await enrolFleet(world, 1);
  await watch().hear(A, B, A);
  world.pass(60_000);
  const { said, hear } = watch();
  await hear(A, B, A);
  expect([said, await lines()]).toEqual([[], 1]);
  expect(await sharedAt()).toBe(world.now());
});

test('it is over when the device is let in again, or has another key', async () => {
  await enrolFleet(world, 1);
  const { keys, hear } = watch();
  await hear(A, B, A);
  const line = { payload: '{}' };
  await world.store.setDeviceState(GW1, 'rejected', world.now(), line);
  await world.store.setDeviceState(GW1, 'accepted', world.now(), line);
  expect(await sharedAt()).toBeUndefined();
  keys.forget(GW1);
  await hear(B);
  expect(await sharedAt()).toBeUndefined();
});

test('such a device is offered nothing, the rollout says why, and goes on with it when that was not seen for an hour', async () => {
  await enrolFleet(world, 2);
  await releaseOf(world, '1.0.0');
  await watch().hear(A, B, A);
  const rollout = await startRollout(world, '1.0.0', { waves: [{ count: 2 }] });
  await run(world, rollout);
  const stateOf = async () => (await deploymentsOf(world, rollout)).find(({ device }) => device === GW1)?.state;
  const offered = (await deploymentsOf(world, rollout)).filter(({ state }) => state === 'offered');
  expect(offered.map(({ device }) => device)).toEqual(['gw-2']);
  const view = must(await explainRollout(world, rollout, { limit: 1, verify: false }));
  expect(view.now.reasons).toContainEqual({
    about: 'keys',
    sentence: '1 device is offered nothing, because two devices use its key: gw-1',
  });
  expect(view.now.explanation).toContain('two devices use its key: gw-1');
  world.pass(HOUR_MS + 1_000);
  await run(world, rollout);
  expect(await stateOf()).toBe('offered');
});

/**
 * What a recall is on the device: an install that finds its slot written. Real agents, real slots, a real server that
 * logs what is asked for.
 */
import { cp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { Id } from '#shared/ids.ts';
import { APPS, openDevice, type Published, startTestServer, type TestServer, until } from './harness.ts';

type Settled = Awaited<ReturnType<typeof openDevice>>;
const finishers: (() => Promise<void>)[] = [];
const later = (stop: () => Promise<void>): void => void finishers.unshift(stop);
let server: TestServer;
let settled: Settled;
let first: Published;
let second: Published;
let recalls = 0;

/** One device that runs 1.1.0 and still holds 1.0.0, whose data folder each test copies. */
beforeAll(async () => {
  server = await startTestServer(later);
  settled = await openDevice(server, {}, later);
  const agent = settled.start();
  const committed = (count: number) => () => server.state.receipts.length === count && agent.states().at(-1) === 'idle';
  first = await server.publishRelease('1.0.0', APPS.good);
  server.desire(first.instruction);
  await until('1.0.0 is committed', committed(1), 60_000, () => [agent.errorOutput(), agent.lines]);
  second = await server.publishRelease('1.1.0', APPS.good);
  server.desire(second.instruction);
  await until('1.1.0 is committed', committed(2));
  await agent.stop();
});
afterAll(async () => {
  for (const finish of finishers) await finish();
});
beforeEach(async () => {
  // The agent that was here before has gone, and nothing of it is on its way any more.
  await until('the broker has noticed', server.nobodyIsConnected);
  Object.assign(server.state, { desired: null, reports: [], receipts: [], requests: [] });
});

const copyOfSettled = async (): Promise<Settled> => {
  const device = await openDevice(server);
  await cp(settled.dataDir, device.dataDir, { recursive: true });
  return device;
};
const goBack = (): string => {
  recalls += 1;
  const deployment = Id.parse(`dep-recall-${recalls}`);
  server.desire({ ...first.instruction, deployment, rollout: Id.parse('rol-recall') });
  return deployment;
};
const finish = async (device: Settled) => {
  const agent = device.start();
  const isDone = () => server.state.receipts.length > 0 && agent.states().at(-1) === 'idle';
  await until('the outcome is reported', isDone, 60_000, () => agent.lines);
  await until('it reports what runs', () => server.state.reports.at(-1)?.deployment === null);
  return agent;
};
const expectBack = (deployment: string): void => {
  expect(server.state.receipts).toMatchObject([
    { deployment, outcome: 'committed', version: '1.0.0', running: { version: '1.0.0', slot: 'a' } },
  ]);
  expect(server.state.reports.at(-1)).toMatchObject({ running: { version: '1.0.0', slot: 'a' } });
};

test('back to what the standby slot still holds: nothing is fetched, and it is on trial and proven as always', async () => {
  const device = await copyOfSettled();
  const deployment = goBack();
  const agent = await finish(device);
  expect(agent.states()).toEqual([
    'accepted',
    'waiting',
    'fetching',
    'ready',
    'activating',
    'trial',
    'committing',
    'committed',
    'reported',
    'idle',
  ]);
  expectBack(deployment);
  expect(server.state.requests).toEqual([]);
});

test.each(['slots.verify.marked', 'slots.activate.written'])(
  'killed on the way back (%s): goes on, and still nothing is fetched',
  async (step) => {
    const device = await copyOfSettled();
    const deployment = goBack();
    expect(await device.start(step).ended).toEqual({ code: null, signal: 'SIGKILL' });
    await until('the broker has noticed', server.nobodyIsConnected);
    await finish(device);
    expectBack(deployment);
    expect(server.state.requests).toEqual([]);
  },
);

test('a standby slot that was damaged meanwhile is fetched and written again', async () => {
  const device = await copyOfSettled();
  const file = join(device.dataDir, 'slots', 'a', 'ballast.bin');
  const bytes = await readFile(file);
  bytes[1000]! ^= 1;
  await writeFile(file, bytes);
  const deployment = goBack();
  const agent = await finish(device);
  expect(agent.lines.some(({ event }) => event === 'found-damaged')).toBe(true);
  expectBack(deployment);
  expect(server.state.requests.map(({ sha256 }) => sha256).sort()).toEqual([first.app, first.ballast].sort());
});

test('below the security floor nothing goes back, though the slot is there', async () => {
  const device = await copyOfSettled();
  const third = await server.publishRelease('1.2.0', APPS.good, { securityCounter: 7 });
  server.desire(third.instruction);
  const agent = await finish(device);
  await agent.stop();
  await until('the broker has noticed', server.nobodyIsConnected);
  server.state.receipts = [];
  recalls += 1;
  const deployment = Id.parse(`dep-recall-${recalls}`);
  server.desire({ ...second.instruction, deployment });
  await finish(device);
  expect(server.state.receipts).toMatchObject([
    { deployment, outcome: 'failed', error: { code: 'DOWNGRADE' }, running: { version: '1.2.0' } },
  ]);
});

test('a device that lost its journal after its commit, and is told the same again, says that it runs it: nothing is fetched or tried', async () => {
  const device = await copyOfSettled();
  const file = join(device.dataDir, 'journal');
  const bytes = await readFile(file);
  bytes[Math.floor(bytes.length / 2)]! ^= 1;
  await writeFile(file, bytes);
  server.desire(second.instruction);
  const agent = await finish(device);
  expect(agent.lines.map(({ event }) => event)).toContain('journal-quarantined');
  expect(agent.states()).toEqual(['accepted', 'committed', 'reported', 'idle']);
  const { deployment } = second.instruction;
  expect(server.state.receipts).toMatchObject([
    { deployment, outcome: 'committed', version: '1.1.0', running: { version: '1.1.0', slot: 'b' } },
  ]);
  expect(server.state.reports.at(-1)).toMatchObject({ floor: 1, running: { version: '1.1.0', slot: 'b' } });
  expect(server.state.requests).toEqual([]);
});

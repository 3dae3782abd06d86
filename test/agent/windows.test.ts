import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { SPREAD_MS_MAX, turnAt } from '#agent/domain/spread.ts';
import { APPS, DEVICE, openDevice, type RunningAgent, startTestServer, until } from './harness.ts';

const events = (agent: RunningAgent): (string | undefined)[] => agent.lines.map(({ event }) => event);

test('a device waits for its window, installs, stays ready until it is told to activate', async () => {
  const server = await startTestServer();
  const device = await openDevice(server);
  const agent = device.start();
  const one = await server.publishRelease('1.0.0', APPS.good);
  const hour = 3_600_000;
  const windowIn = (ms: number) => [{ opens: Date.now() + ms, closes: Date.now() + hour }];
  // First one that is far away: however slow the machine is, it is held back.
  server.desire({ ...one.instruction, windows: windowIn(hour / 2), activateAt: null });
  await until('it is held back', () => events(agent).includes('held-back'));
  const windows = windowIn(1_500);
  server.desire({ ...one.instruction, windows, activateAt: null });
  await until('it is installed', () => agent.states().at(-1) === 'ready');
  const fetching = agent.lines.find(({ state }) => state === 'fetching')!;
  // By the server's clock, as the device knows it.
  expect(Date.parse(fetching.time)).toBeGreaterThanOrEqual(windows[0]!.opens - 50);
  await until('it is held back again', () => events(agent).filter((event) => event === 'held-back').length === 2);
  server.desire({ ...one.instruction, windows });
  await until('it has committed', () => server.state.receipts.length === 1);
  expect(server.state.receipts).toMatchObject([{ outcome: 'committed' }]);
  await agent.stop();
});

test('where the fleet is large a device takes its turn in the window, says when, and keeps to it after a restart', async () => {
  const server = await startTestServer();
  server.state.spreadMs = 10 ** 9;
  const device = await openDevice(server);
  const agent = device.start();
  const one = await server.publishRelease('1.0.0', APPS.good);
  const opens = Date.now() + 2_000;
  const windows = [{ opens, closes: opens + 4 * 3_600_000 }];
  const turn = turnAt({ windows }, opens, { device: DEVICE, since: 0, spreadMs: SPREAD_MS_MAX });
  expect(turn).toBeGreaterThan(opens + 60_000);
  const nextAt = async () => {
    const text = await readFile(join(device.dataDir, 'status.json'), 'utf8').catch(() => '{}');
    return JSON.parse(text === '' ? '{}' : text).nextAt;
  };
  server.desire({ ...one.instruction, windows });
  await until('it says when', async () => (await nextAt()) === turn);
  await until('the window is open', () => Date.now() > opens + 200);
  await agent.stop();
  await rm(join(device.dataDir, 'status.json'));
  const again = device.start();
  await until('it says so again', async () => (await nextAt()) === turn);
  expect(again.states()).not.toContain('fetching');
  await again.stop();
});

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { APPS, BALLAST_BYTES, DEVICE, openDevice, startTestServer, until } from './harness.ts';

test('a version is installed, proven on trial, committed, and reported exactly once; a bad one returns to it', async () => {
  const server = await startTestServer();
  const device = await openDevice(server, { log: { level: 'debug' } });
  const agent = device.start();
  const first = await server.publishRelease('1.0.0', APPS.good);
  server.desire(first.instruction);
  await until(
    'the first version is committed',
    () => server.state.receipts.length === 1,
    6_000,
    () => [agent.lines.slice(-12), server.state.reports.slice(-2)],
  );
  expect(server.state.receipts[0]).toMatchObject({
    device: DEVICE,
    deployment: 'dep-1-0-0',
    rollout: 'rol-1-0-0',
    outcome: 'committed',
    running: { version: '1.0.0', slot: 'a' },
  });
  await until('it is idle', () => agent.states().at(-1) === 'idle');
  expect(agent.states()).toEqual([
    'accepted',
    'waiting',
    'fetching',
    'verified',
    'ready',
    'activating',
    'trial',
    'committing',
    'committed',
    'reported',
    'idle',
  ]);

  const bad = await server.publishRelease('1.1.0', APPS.crashing);
  server.desire(bad.instruction);
  await until(
    'the bad version is reverted',
    () => server.state.receipts.length === 2,
    8_000,
    () => [agent.lines.slice(-12).map((l) => l.msg), server.state.reports.slice(-2)],
  );
  expect(server.state.receipts[1]).toMatchObject({
    deployment: 'dep-1-1-0',
    outcome: 'reverted',
    error: { code: 'TRIAL_CRASHED' },
    running: { version: '1.0.0', slot: 'a' },
  });
  await until('it is idle again', () => agent.states().at(-1) === 'idle');
  expect(agent.states().slice(-6)).toEqual(['trial', 'reverting', 'verifying-revert', 'reverted', 'reported', 'idle']);
  await until('heartbeats come', () => server.state.heartbeats > 0);
  expect(server.state.reports.at(-1)).toMatchObject({ floor: 1, desiredSeq: 2, running: { version: '1.0.0' } });
  const status = JSON.parse(await readFile(join(device.dataDir, 'status.json'), 'utf8')) as object;
  expect(status).toMatchObject({ state: 'idle', running: { version: '1.0.0' }, connected: true });
  expect(server.state.requests.filter(({ sha256 }) => sha256 === first.ballast)).toEqual([
    { sha256: first.ballast, from: 0 },
  ]);
  expect(BALLAST_BYTES).toBeGreaterThan(0);

  expect(await agent.stop()).toEqual({ code: 0, signal: null });
  expect(agent.errorOutput()).toBe('');
});

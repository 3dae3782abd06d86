import { readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ALL_SWEEPS } from '#test/sweep.ts';
import { APPS, NEVER_WELL, openDevice, startTestServer, until } from './harness.ts';

const settled = async () => {
  const server = await startTestServer();
  const device = await openDevice(server);
  const agent = device.start();
  server.desire((await server.publishRelease('1.0.0', APPS.good)).instruction);
  await until('1.0.0 is committed', () => agent.states().at(-1) === 'idle');
  return { server, device, agent };
};
const CRASHES = 'console.log("out of luck, key=" + process.env.API_KEY); process.exit(3);';

test('a deployment that fails sends the last lines of the application and of the agent, without secrets', async () => {
  const { server, device, agent } = await settled();
  await writeFile(join(device.dataDir, 'application.env'), 'API_KEY=very-secret-key\n', { mode: 0o600 });
  server.desire((await server.publishRelease('1.1.0', CRASHES, NEVER_WELL)).instruction);
  await until('it has reverted', () => server.state.receipts.some(({ outcome }) => outcome === 'reverted'));
  const textOf = (source: string) => server.state.logs.find((piece) => piece.source === source)?.text ?? '';
  await until('both have come', () => textOf('application') !== '' && textOf('agent') !== '');
  expect(textOf('application')).toContain('out of luck, key=[secret]');
  expect(textOf('agent')).toMatch(/gateway@1\.1\.0: reverted: TRIAL_CRASHED/);
  expect(server.state.logs[0]).toMatchObject({ deployment: 'dep-1-1-0' });
  await until('nothing is kept any more', async () => (await readdir(join(device.dataDir, 'kept-logs'))).length === 0);
  await agent.stop();
});

test.runIf(ALL_SWEEPS)(
  'a bad line in the file of variables keeps a release from being activated, and the old version goes on',
  async () => {
    const { server, device, agent } = await settled();
    await writeFile(join(device.dataDir, 'application.env'), 'A=1\nvery-secret-key\n', { mode: 0o600 });
    server.desire((await server.publishRelease('1.1.0', APPS.good)).instruction);
    await until('it is reported', () => server.state.receipts.some(({ version }) => version === '1.1.0'));
    const receipt = server.state.receipts.find(({ version }) => version === '1.1.0');
    expect(receipt).toMatchObject({
      outcome: 'reverted',
      error: { code: 'PRECONDITION' },
      running: { version: '1.0.0' },
    });
    expect(receipt?.error?.message).toMatch(/application\.env: line 2 has no "="$/);
    await agent.stop();
  },
);

test('what falls ill after its commit says so, and why; and that it is well again', async () => {
  const health = {
    soakMs: 0,
    deadlineMs: 120_000,
    intervalMs: 50,
    checks: [{ kind: 'file' as const, name: 'alive', path: '{data}/alive', withinMs: 3_600_000 }],
  };
  const server = await startTestServer();
  const device = await openDevice(server, { health: { intervalMs: 100 }, heartbeatMs: 200 });
  const agent = device.start();
  const alive = join(device.dataDir, 'application', 'alive');
  await until('there is a data folder', () => readdir(join(device.dataDir, 'application')).catch(() => undefined));
  await writeFile(alive, '');
  server.desire((await server.publishRelease('1.0.0', APPS.good, { health })).instruction);
  await until('1.0.0 is committed', () => agent.states().at(-1) === 'idle');
  const told = () => server.state.reports.at(-1)?.attributes['unhealthy'];
  await until('it is healthy', () => server.state.healthy === true && told() === undefined);
  await rm(alive);
  await until('it says that it is not', () => server.state.healthy === false && told() !== undefined);
  expect(told()).toMatch(/^the check alive fails: .*alive: ENOENT$/);
  await writeFile(alive, '');
  await until('it is well again', () => server.state.healthy === true && told() === undefined);
  await agent.stop();
});

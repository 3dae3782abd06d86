import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { APPS, openDevice, type RunningAgent, startTestServer, until } from '../harness.ts';

const committed = async (server: Awaited<ReturnType<typeof startTestServer>>, agent: RunningAgent): Promise<void> => {
  server.desire((await server.publishRelease('1.0.0', APPS.good)).instruction);
  await until(
    'the release is committed and reported',
    () => server.state.receipts.length === 1 && agent.states().at(-1) === 'idle',
    60_000,
    () => agent.lines,
  );
};
const applicationOf = async (dataDir: string): Promise<number> => {
  const text = await readFile(join(dataDir, 'supervisor', 'application.json'), 'utf8');
  return (JSON.parse(text) as { pid: number }).pid;
};
const isAlive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

/** Runs in the agent before it does. */
const FAULTY = `process.on('SIGUSR2', () => {
  Promise.reject(new Error('no one waited for this'));
  setImmediate(() => { throw new Error('thrown where no one catches'); });
  for (let i = 0; i < 1000; i += 1) Promise.reject(new Error('again'));
});`;

test('a fault that nothing catches ends neither the agent nor the application, and is told', async () => {
  const server = await startTestServer();
  const device = await openDevice(server);
  const file = join(device.dir, 'faulty.mjs');
  await writeFile(file, FAULTY);
  const agent = device.start(undefined, { NODE_OPTIONS: `${process.env['NODE_OPTIONS'] ?? ''} --import=${file}` });
  await committed(server, agent);
  const application = await applicationOf(device.dataDir);
  const heartbeats = server.state.heartbeats;

  const { pid } = JSON.parse(await readFile(join(device.dataDir, 'status.json'), 'utf8')) as { pid: number };
  process.kill(pid, 'SIGUSR2');
  await until('the faults are told', () => agent.lines.some(({ event }) => event === 'fault'));
  await until('it goes on', () => server.state.heartbeats > heartbeats + 2);
  expect(isAlive(application)).toBe(true);
  expect(await applicationOf(device.dataDir)).toBe(application);
  expect(agent.lines.filter(({ event }) => event === 'fault').length).toBeLessThan(30);
  expect(await agent.stop()).toEqual({ code: 0, signal: null });
});

test('an MQTT address that cannot be used, kept by an earlier build, is asked for again; the application runs', async () => {
  const server = await startTestServer();
  const device = await openDevice(server);
  const agent = device.start();
  await committed(server, agent);
  await agent.stop();

  const file = join(device.dataDir, 'enrolment.json');
  const kept = JSON.parse(await readFile(file, 'utf8')) as object;
  await writeFile(file, JSON.stringify({ ...kept, mqttUrl: 'mqtt.example.com' }));
  // Its token may be used up by now: what was kept still makes it a member.
  const config = JSON.parse(await readFile(device.configFile, 'utf8')) as Record<string, unknown>;
  await writeFile(device.configFile, JSON.stringify({ ...config, token: undefined, trustRoot: server.rootSha256 }));

  const again = device.start();
  await until(
    'it is connected',
    () => again.lines.some(({ event }) => event === 'connected'),
    60_000,
    () => again.lines,
  );
  expect(again.lines.find(({ event }) => event === 'not-connected')?.msg).toContain('no address that can be used');
  expect(isAlive(await applicationOf(device.dataDir))).toBe(true);
  expect(JSON.parse(await readFile(file, 'utf8'))).toEqual(kept);
  await again.stop();
});

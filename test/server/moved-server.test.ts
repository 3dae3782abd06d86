/** A server that gets another name, and the devices that are told so: they keep key, root, and whatever runs. */

import { cp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Status } from '#agent/local/status-file.ts';
import { type RunningServer, startServer } from '#server/main.ts';
import { ALL_SWEEPS } from '#test/sweep.ts';
import { APPS, DEVICE, openDevice, startTestServer } from '../agent/harness.ts';
import { ask, configFor, newFolder, removeFolder, until } from './running.ts';

const CERTIFICATE = join(import.meta.dirname, 'localhost-cert.pem');
const TLS = { 'tls-cert-file': CERTIFICATE, 'tls-key-file': join(import.meta.dirname, 'localhost-key.pem') };
const NO_TOKEN = { token: undefined, trustRoot: undefined };

let folder: string;
let stops: (() => Promise<void>)[];
beforeEach(async () => {
  folder = await newFolder();
  stops = [];
});
afterEach(async () => {
  for (const stop of stops.reverse()) await stop();
  await removeFolder(folder);
});

const serve = async (data = 'data', flags: Record<string, string> = {}): Promise<RunningServer> => {
  const server = await startServer(configFor(join(folder, data), flags));
  stops.push(() => server.stop());
  return server;
};
const newAgent = async (server: RunningServer) => {
  const adminToken = (await readFile(join(folder, 'data', 'admin-token'), 'utf8')).trim();
  const made = await ask(server.httpUrl, adminToken, 'POST', '/api/v1/enrolment-tokens', { count: 1 });
  const device = await openDevice(
    { url: server.httpUrl, token: made.tokens[0] },
    { reconnect: { firstMs: 20, maxMs: 200 }, pollMs: 200 },
    (stop) => stops.push(stop),
  );
  return { ...device, adminToken };
};
type Agent = Awaited<ReturnType<typeof openDevice>>;
/** Changes its configuration file, as people do. */
const configure = async ({ configFile }: Agent, changes: Record<string, unknown>): Promise<void> => {
  const config: Record<string, unknown> = JSON.parse(await readFile(configFile, 'utf8'));
  await writeFile(configFile, JSON.stringify({ ...config, ...changes }));
};
const statusOf = async ({ dataDir }: Agent): Promise<Status> =>
  JSON.parse(await readFile(join(dataDir, 'status.json'), 'utf8').catch(() => '{}'));
const connected = (running: ReturnType<Agent['start']>) => (): boolean =>
  running.lines.some(({ event }) => event === 'connected');
const nameOf = (url: string, name = 'localhost'): string => url.replace('127.0.0.1', name);

test('another port, another name, and https: the device goes on without a token, with the key that it has', async () => {
  const first = await serve();
  const agent = await newAgent(first);
  const one = agent.start();
  await until(connected(one), 'it is connected');
  await one.stop();
  const key = await readFile(join(agent.dataDir, 'device.key'), 'utf8');
  await first.stop();
  const second = await serve();
  await configure(agent, { serverUrl: nameOf(second.httpUrl), ...NO_TOKEN });
  const two = agent.start();
  await until(connected(two), 'it is connected under the new name');
  await two.stop();
  await second.stop();
  const third = await serve('data', TLS);
  await configure(agent, { serverUrl: nameOf(third.httpUrl) });
  const three = agent.start(undefined, { NODE_EXTRA_CA_CERTS: CERTIFICATE });
  await until(connected(three), 'it is connected over TLS');
  expect((await statusOf(agent)).trouble ?? null).toBeNull();
  await three.stop();
  expect(await readFile(join(agent.dataDir, 'device.key'), 'utf8')).toBe(key);
});

test('a server with the same root that does not know the device gets to know it, by the same key', async () => {
  const first = await serve();
  await first.stop();
  await cp(join(folder, 'data'), join(folder, 'older'), { recursive: true });
  const again = await serve();
  const agent = await newAgent(again);
  const one = agent.start();
  await until(connected(one), 'it is connected');
  await one.stop();
  await again.stop();
  const older = await serve('older');
  await configure(agent, { serverUrl: nameOf(older.httpUrl) });
  const two = agent.start();
  await until(async () => (await statusOf(agent)).trouble?.message.includes('operator') === true, 'it waits');
  await ask(older.httpUrl, agent.adminToken, 'POST', `/api/v1/devices/${DEVICE}/accept`);
  await until(connected(two), 'it is connected');
  await until(async () => (await statusOf(agent)).trouble === null, 'nothing keeps it from its server');
  expect(two.lines.filter(({ event }) => event === 'enrolling-again')).toHaveLength(1);
  await two.stop();
});

test.runIf(ALL_SWEEPS)('the same under the same name: a server that was restored from an older backup', async () => {
  const first = await serve();
  await first.stop();
  const port = new URL(first.httpUrl).port;
  await cp(join(folder, 'data'), join(folder, 'older'), { recursive: true });
  const again = await serve('data', { 'http-port': port });
  const agent = await newAgent(again);
  const one = agent.start();
  await until(connected(one), 'it is connected');
  await again.stop();
  const older = await serve('older', { 'http-port': port });
  await until(async () => (await statusOf(agent)).trouble?.message.includes('operator') === true, 'it waits');
  const before = one.lines.length;
  await ask(older.httpUrl, agent.adminToken, 'POST', `/api/v1/devices/${DEVICE}/accept`);
  await until(() => one.lines.slice(before).some(({ event }) => event === 'connected'), 'it is connected');
  expect(one.hasEnded()).toBe(false);
  await one.stop();
});

test.runIf(ALL_SWEEPS)(
  'a server with another root is never believed; the application runs on, and the right name makes it good',
  async () => {
    const ours = await startTestServer((stop) => stops.push(stop));
    const theirs = await startTestServer((stop) => stops.push(stop));
    const agent = await openDevice(ours, { pollMs: 200 }, (stop) => stops.push(stop));
    const one = agent.start();
    const release = await ours.publishRelease('1.0.0', APPS.good);
    ours.desire(release.instruction);
    await until(() => ours.state.receipts.length === 1, 'it is installed');
    await one.stop();
    const misled = async (changes: Record<string, unknown>, words: string): Promise<void> => {
      await configure(agent, { serverUrl: theirs.url, ...changes });
      const running = agent.start();
      await until(async () => (await statusOf(agent)).trouble?.message.includes(words) === true, `it says ${words}`);
      await until(async () => (await statusOf(agent)).running?.version === '1.0.0', 'the application runs');
      expect(running.hasEnded()).toBe(false);
      await running.stop();
    };
    await misled({ ...NO_TOKEN }, 'another trust root');
    await misled({ trustOnFirstUse: true }, 'another trust root');
    await misled({ token: theirs.token }, 'take that away');
    expect(theirs.state.reports).toEqual([]);
    await configure(agent, { serverUrl: nameOf(ours.url), ...NO_TOKEN, trustOnFirstUse: false });
    const right = agent.start();
    await until(connected(right), 'it is connected');
    await right.stop();
  },
);

test('an enrolment that was lost on the disk is no reason to forget whom to trust', async () => {
  const server = await startTestServer((stop) => stops.push(stop));
  const agent = await openDevice(server, {}, (stop) => stops.push(stop));
  const one = agent.start();
  const release = await server.publishRelease('1.0.0', APPS.good);
  server.desire(release.instruction);
  await until(() => server.state.receipts.length === 1, 'it is installed');
  await one.stop();
  await writeFile(join(agent.dataDir, 'enrolment.json'), 'x');
  await configure(agent, NO_TOKEN);
  const two = agent.start();
  await until(connected(two), 'it is connected');
  expect(JSON.parse(await readFile(join(agent.dataDir, 'enrolment.json'), 'utf8'))).toMatchObject({
    rootSha256: server.rootSha256,
  });
  await two.stop();
});

/** Real agents made from the same disk, in front of a real server. */
import { cp } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type RunningServer, startServer } from '#server/main.ts';
import { Id } from '#shared/ids.ts';
import { openDevice } from '../agent/harness.ts';
import { ask, configFor, newFolder, removeFolder, until } from './running.ts';

let folder: string;
let server: RunningServer;
const stops: (() => Promise<void>)[] = [];

beforeAll(async () => {
  folder = await newFolder();
  server = await startServer(configFor(join(folder, 'data')));
});
afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
  await server.stop();
  await removeFolder(folder);
});

const operator = (method: string, path: string, body?: object) =>
  ask(server.httpUrl, server.adminToken!, method, path, body);
const shown = (device: Id) => operator('GET', `/api/v1/devices/${device}`);
const linesOf = async (device: Id): Promise<number> =>
  (await operator('GET', `/api/v1/devices/${device}/history?limit=100`)).entries.filter(
    ({ kind }: { kind: string }) => kind === 'key-shared',
  ).length;
const metric = async (name: string): Promise<number> => {
  const headers = { authorization: `Bearer ${server.adminToken}` };
  const text = await (await fetch(`${server.httpUrl}/metrics`, { headers })).text();
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1]);
};
const newAgent = async (device: Id, settings: Record<string, unknown>) => {
  const made = await operator('POST', '/api/v1/enrolment-tokens', { count: 1, expiresInMs: 3_600_000 });
  const at = { url: server.httpUrl, token: made.tokens[0] };
  return openDevice(at, { device, compatible: 'gw2', reconnect: { firstMs: 20, maxMs: 200 }, ...settings }, (stop) =>
    stops.push(stop),
  );
};
/** Two that were made from one disk, after it had enrolled. */
const twins = async (device: Id, settings: Record<string, unknown> = {}) => {
  const [one, two] = [await newAgent(device, settings), await newAgent(device, settings)];
  const first = one.start();
  await until(async () => {
    const entries = await operator('GET', '/api/v1/devices').catch(() => ({ items: [] }));
    return entries.items.some(({ id }: { id: string }) => id === device);
  }, `${device} has enrolled`);
  await first.stop();
  await cp(one.dataDir, two.dataDir, { recursive: true });
  return [one.start(), two.start()] as const;
};

test.each([
  ['gw-mqtt', {}, 1],
  ['gw-http', { mqttUrl: 'mqtt://127.0.0.1:1', pollMs: 100 }, 0],
])('two devices made from one disk are found out (%s), and said once', async (name, settings, takeoversMin) => {
  const device = Id.parse(name);
  const agents = await twins(device, settings);
  await until(async () => (await shown(device)).keySharedAt !== null, 'it is shown');
  expect(await linesOf(device)).toBe(1);
  expect(await metric('sluice_shared_keys_total')).toBeGreaterThan(0);
  expect(await metric('sluice_mqtt_takeovers_total')).toBeGreaterThanOrEqual(takeoversMin);
  for (const agent of agents) await agent.stop();
  expect(await linesOf(device)).toBe(1);
});

test('one that is killed and started again and again is not', async () => {
  const device = Id.parse('gw-loop');
  const agent = await newAgent(device, {});
  const boots = new Set<string>();
  for (let life = 0; life < 5; life += 1) {
    const running = agent.start();
    await until(() => running.lines.some(({ event }) => event === 'connected'), 'it is connected');
    running.kill();
    await running.ended;
    boots.add((running.lines.find(({ event }) => event === 'agent-started') as { boot?: string }).boot ?? '');
  }
  expect(boots.size).toBe(5);
  expect((await shown(device)).keySharedAt).toBeNull();
  expect(await linesOf(device)).toBe(0);
});

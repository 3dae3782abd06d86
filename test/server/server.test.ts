import { chmod, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { Agent, request } from 'node:https';
import { createServer } from 'node:net';
import { join } from 'node:path';
import type { MqttClient } from 'mqtt';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ALIVE_META } from '#server/flow/rollout/grant-grace.ts';
import { type RunningServer, startServer } from '#server/main.ts';
import { openInProcessStore } from '#server/store/sqlite/open.ts';
import {
  admit,
  ask,
  configFor,
  connectDevice,
  enrol,
  newDevice,
  newFolder,
  removeFolder,
  reportAndWait,
  until,
} from './running.ts';

let dir: string;
let servers: RunningServer[];
let clients: MqttClient[];

beforeEach(async () => {
  dir = await newFolder();
  servers = [];
  clients = [];
});
afterEach(async () => {
  for (const client of clients) await client.endAsync(true);
  for (const server of servers) await server.stop();
  await removeFolder(dir);
});

const start = async (flags: Record<string, string> = {}): Promise<RunningServer> => {
  const server = await startServer(configFor(dir, flags));
  servers.push(server);
  return server;
};
const first = async (flags: Record<string, string> = {}): Promise<{ server: RunningServer; token: string }> => {
  const server = await start(flags);
  return { server, token: server.adminToken! };
};
const connect = async (...args: Parameters<typeof connectDevice>): Promise<MqttClient> => {
  const client = await connectDevice(...args);
  clients.push(client);
  return client;
};

test('the first start makes all that is needed, shows the token once, and keeps it where only its user reads', async () => {
  const { server, token } = await first();
  expect(token).toMatch(/^slo_/);
  expect(await ask(server.httpUrl, token, 'GET', '/api/v1/whoami')).toMatchObject({ name: 'admin', role: 'admin' });
  expect((await readFile(join(dir, 'admin-token'), 'utf8')).trim()).toBe(token);
  expect((await stat(join(dir, 'admin-token'))).mode & 0o777).toBe(0o600);
  expect((await stat(join(dir, 'keys'))).mode & 0o077).toBe(0);
  const audit = await ask(server.httpUrl, token, 'GET', '/api/v1/audit');
  expect(audit.items.map(({ kind }: { kind: string }) => kind)).toEqual(['server-initialised', 'operator-created']);
});

test('a second start keeps everything, and shows no token', async () => {
  const { server, token } = await first();
  const device = await admit(server.httpUrl, token, 'gw-1');
  await server.stop();
  const again = await start();
  expect(again.adminToken).toBeNull();
  expect(await ask(again.httpUrl, token, 'GET', '/api/v1/whoami')).toMatchObject({ name: 'admin' });
  await connect(again.mqttUrl, device);
  const audit = await ask(again.httpUrl, token, 'GET', '/api/v1/audit');
  expect(audit.items.filter(({ kind }: { kind: string }) => kind === 'server-initialised')).toHaveLength(1);
});

test('why a device does not act is heard over HTTP too, shown, and found by a selector', async () => {
  const { server, token } = await first();
  const device = await admit(server.httpUrl, token, 'gw-1');
  await admit(server.httpUrl, token, 'gw-2');
  const say = (body: object, authorization = device.authorization()) =>
    fetch(`${server.httpUrl}/device/v1/refusal`, {
      method: 'POST',
      headers: { authorization, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
  const found = async () => {
    const answer = await ask(server.httpUrl, token, 'GET', '/api/v1/devices?selector=refused%3DROOT_EXPIRED');
    return answer.items.map(({ id }: { id: string }) => id);
  };
  expect((await say({ code: 'ROOT_EXPIRED' })).status).toBe(200);
  expect(await found()).toEqual(['gw-1']);
  expect((await say({ code: '<script>' })).status).toBe(400);
  expect((await say({ code: 'ROOT_EXPIRED' }, `Bearer ${token}`)).status).toBe(403);
  expect((await say({ code: null })).status).toBe(200);
  expect(await found()).toEqual([]);
});

test('stop is graceful: what was taken is written, devices are offline, and nothing holds the process', async () => {
  const { server, token } = await first();
  const device = await admit(server.httpUrl, token, 'gw-1');
  const client = await connect(server.mqttUrl, device);
  await reportAndWait(client, device, 1);
  await until(async () => (await ask(server.httpUrl, token, 'GET', '/api/v1/devices/gw-1')).online, 'online');
  await server.stop();
  expect((await readdir(dir)).filter((name) => name === 'server.pid')).toEqual([]);
  const again = await start();
  expect(await ask(again.httpUrl, token, 'GET', '/api/v1/devices/gw-1')).toMatchObject({
    online: false,
    agent: '1.0.0',
  });
});

test('a stop notes when the server was last there', async () => {
  const time = Date.now() + 3_600_000;
  const server = await startServer(configFor(dir), { now: () => time });
  servers.push(server);
  await server.stop();
  const store = openInProcessStore(join(dir, 'sluice.db'));
  expect(Number(await store.getMeta(ALIVE_META))).toBe(time);
  await store.close();
});

test('a second server on the same data folder is refused in words', async () => {
  await first();
  await expect(start()).rejects.toMatchObject({ name: 'StartFailure', message: expect.stringContaining(dir) });
});

test.each(['http', 'mqtt'])('a taken %s port is refused in words, and leaves nothing open', async (which) => {
  const taken = createServer();
  await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
  const address = taken.address();
  const port = String(typeof address === 'object' && address !== null ? address.port : 0);
  await expect(start({ [`${which}-port`]: port })).rejects.toMatchObject({
    name: 'StartFailure',
    message: expect.stringMatching(new RegExp(`${which}.*${port}.*taken.*--${which}-port`, 'i')),
  });
  await new Promise((resolve) => taken.close(resolve));
  // The lock and the database are free again. (So is that port, unless someone else has taken it since.)
  await start();
});

test('a data folder that is none is refused in words', async () => {
  const file = join(dir, 'file');
  await writeFile(file, '');
  await expect(startServer(configFor(file))).rejects.toMatchObject({ name: 'StartFailure' });
  await expect(startServer(configFor(join(file, 'below')))).rejects.toMatchObject({ name: 'StartFailure' });
});

test('a data folder in which nothing can be made is refused at once, where `mkdir -p` would never return', async () => {
  await expect(startServer(configFor('/proc/sluice/data'))).rejects.toMatchObject({
    name: 'StartFailure',
    message: expect.stringContaining('/proc/sluice/data cannot be used (ENOENT)'),
  });
});

test.skipIf(process.getuid?.() === 0)('a data folder that may not be written is refused in words', async () => {
  await chmod(dir, 0o500);
  await expect(start()).rejects.toMatchObject({ name: 'StartFailure', message: expect.stringContaining('EACCES') });
  await chmod(dir, 0o700);
});

test('with TLS, both HTTP and MQTT speak it, and plain speakers get nowhere', async () => {
  // Made for this test alone: self-signed, for localhost.
  const [cert, key] = ['localhost-cert.pem', 'localhost-key.pem'].map((name) => join(import.meta.dirname, name));
  const { server } = await first({ 'tls-cert-file': cert!, 'tls-key-file': key! });
  expect([server.httpUrl, server.mqttUrl]).toEqual([
    expect.stringMatching(/^https:/),
    expect.stringMatching(/^mqtts:/),
  ]);
  const agent = new Agent({ rejectUnauthorized: false });
  const status = await new Promise((resolve, reject) => {
    request(`${server.httpUrl}/health`, { agent }, (response) => {
      response.resume();
      resolve(response.statusCode);
    })
      .on('error', reject)
      .end();
  });
  agent.destroy();
  expect(status).toBe(200);
  // A TLS handshake that succeeds, and then a login that is refused: the broker answers.
  await expect(connect(server.mqttUrl, newDevice('gw-1'))).rejects.toMatchObject({ code: 4 });
  await expect(connect(server.mqttUrl.replace('mqtts', 'mqtt'), newDevice('gw-1'))).rejects.toThrow();
  await expect(fetch(`${server.httpUrl.replace('https', 'http')}/health`)).rejects.toThrow();
});

test('a device enrols, connects, reports, and is shut out again', async () => {
  const { server, token } = await first();
  const device = newDevice('gw-1');
  expect(await (await enrol(server.httpUrl, device, null)).json()).toMatchObject({
    state: 'pending',
    mqttUrl: server.mqttUrl,
  });
  await expect(connect(server.mqttUrl, device)).rejects.toMatchObject({ code: 5 });
  await ask(server.httpUrl, token, 'POST', '/api/v1/devices/gw-1/accept', {});
  const client = await connect(server.mqttUrl, device);
  expect(await reportAndWait(client, device, 1)).toEqual({ boot: 'boot-1', seq: 1 });
  const closed = new Promise<void>((resolve) => client.once('close', () => resolve()));
  await ask(server.httpUrl, token, 'POST', '/api/v1/devices/gw-1/reject', {});
  await closed;
  await expect(connect(server.mqttUrl, device)).rejects.toMatchObject({ code: 5 });
});

const PATHS = ['/device/v1/desired', '/tuf/metadata/timestamp.json', '/o/', '/metrics'];
test('a device that lost its key comes back under its id with a token made for it, and the old connection is closed', async () => {
  const { server, token } = await first();
  const device = await admit(server.httpUrl, token, 'gw-1');
  const client = await connect(server.mqttUrl, device);
  await reportAndWait(client, device, 7);
  const closed = new Promise<void>((resolve) => client.once('close', () => resolve()));
  const wiped = newDevice('gw-1');
  expect((await enrol(server.httpUrl, wiped, null)).status).toBe(409);
  const made = await ask(server.httpUrl, token, 'POST', '/api/v1/enrolment-tokens', { count: 1, device: 'gw-1' });
  expect((await enrol(server.httpUrl, wiped, made.tokens[0])).status).toBe(200);
  await closed;
  await expect(connect(server.mqttUrl, device)).rejects.toThrow();
  const again = await connect(server.mqttUrl, wiped);
  expect(await reportAndWait(again, wiped, 1)).toMatchObject({ seq: 1 });
  expect(await ask(server.httpUrl, token, 'GET', '/api/v1/devices/gw-1')).toMatchObject({
    state: 'accepted',
    agent: '1.0.0',
    publicKey: wiped.key.key.keyval.public,
  });
});

test('metadata and objects are for devices and operators; desired documents for devices only', async () => {
  const { server, token } = await first();
  const device = await admit(server.httpUrl, token, 'gw-1');
  const statuses = async (authorization: string | null): Promise<number[]> =>
    Promise.all(
      PATHS.map(async (path) => {
        const url = server.httpUrl + (path === '/o/' ? path + '0'.repeat(64) : path);
        const response = await fetch(url, authorization === null ? {} : { headers: { authorization } });
        await response.arrayBuffer();
        return response.status;
      }),
    );
  expect(await statuses(null)).toEqual([401, 401, 401, 401]);
  expect(await statuses('Bearer slo_nonsense')).toEqual([401, 401, 401, 401]);
  expect(await statuses(`Bearer ${token}`)).toEqual([403, 200, 404, 200]);
  expect(await statuses(device.authorization())).toEqual([200, 200, 404, 403]);
  expect(await statuses(newDevice('gw-1').authorization())).toEqual([401, 401, 401, 401]);
});

test('with public artifacts anyone may cache metadata and objects, and nothing else is open', async () => {
  const { server } = await first({ 'artifacts-public': 'true' });
  expect((await fetch(`${server.httpUrl}/o/${'0'.repeat(64)}`)).status).toBe(404);
  const timestamp = await fetch(`${server.httpUrl}/tuf/metadata/timestamp.json`);
  expect([timestamp.status, timestamp.headers.get('cache-control')]).toEqual([200, 'no-cache']);
  expect((await fetch(`${server.httpUrl}/device/v1/desired`)).status).toBe(401);
  expect((await fetch(`${server.httpUrl}/metrics`)).status).toBe(401);
});

test('nothing but the repository can be read through its paths', async () => {
  const { server } = await first({ 'artifacts-public': 'true' });
  expect((await fetch(`${server.httpUrl}/tuf/metadata/1.root.json`)).headers.get('cache-control')).toContain(
    'immutable',
  );
  for (const name of [
    '../keys/root.pem',
    '..%2f..%2fkeys%2froot.pem',
    '%2e%2e/keys/root.pem',
    'x'.repeat(600),
    '.',
    '',
  ]) {
    for (const folder of ['metadata', 'targets']) {
      const response = await fetch(`${server.httpUrl}/tuf/${folder}/${name}`);
      expect([404, 400]).toContain(response.status);
      expect(await response.text()).not.toContain('PRIVATE');
    }
  }
});

test('health is public and says little', async () => {
  const { server } = await first();
  const response = await fetch(`${server.httpUrl}/health`);
  expect([response.status, await response.json()]).toEqual([200, { status: 'ok', store: 'ok', outbox: 'ok' }]);
});

test('metrics count devices, messages and requests, and every one of them is documented', async () => {
  const { server, token } = await first();
  const device = await admit(server.httpUrl, token, 'gw-1');
  const client = await connect(server.mqttUrl, device);
  await reportAndWait(client, device, 1);
  const response = await fetch(`${server.httpUrl}/metrics`, { headers: { authorization: `Bearer ${token}` } });
  const text = await response.text();
  for (const line of [
    'sluice_connected_devices 1',
    'sluice_devices{state="accepted"} 1',
    'sluice_messages_total{kind="state",outcome="saved"} 1',
    'sluice_outbox_items 0',
    'sluice_ingest_seconds_count{kind="state"} 1',
  ]) {
    expect(text).toContain(`${line}\n`);
  }
  expect(text).toMatch(/sluice_http_request_seconds_count\{method="POST",route="\/device\/v1\/enrol",status="200"\} 1/);
  expect(text).toContain('process_cpu_seconds_total');
  const page = await readFile(join(import.meta.dirname, '../../docs/operations.md'), 'utf8');
  for (const [, name] of text.matchAll(/^# TYPE (sluice_\w+) /gm)) expect(page).toContain(`| \`${name}\` |`);
});

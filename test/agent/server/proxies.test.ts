import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { type AddressInfo, connect, type Server } from 'node:net';
import { join } from 'node:path';
import { createServer as createTlsServer, getCACertificates, setDefaultCACertificates } from 'node:tls';
import { pino } from 'pino';
import { beforeAll, expect, onTestFinished, test } from 'vitest';
import { openLink } from '#agent/server/link.ts';
import { examineNetwork } from '#agent/server/network.ts';
import { openProxies } from '#agent/server/proxies.ts';
import { type HttpAnswer, request } from '#agent/server/request.ts';
import { Id } from '#shared/ids.ts';
import { APPS, openDevice, startTestServer, until } from '../harness.ts';
import { LOGIN, SKIPPED, startBadProxy, startTinyproxy } from '../proxy-rig.ts';
import { HONEST, startScriptedBroker } from '../scripted-broker.ts';

const certificates = join(import.meta.dirname, '../../server');
const TLS = {
  cert: readFileSync(join(certificates, 'localhost-cert.pem'), 'utf8'),
  key: readFileSync(join(certificates, 'localhost-key.pem'), 'utf8'),
};
beforeAll(() => {
  const before = getCACertificates('default');
  setDefaultCACertificates([...before, TLS.cert]);
  return () => setDefaultCACertificates(before);
});

const listen = async (server: Server): Promise<number> => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  return (server.address() as AddressInfo).port;
};
const answer: RequestListener = (asked, response) => {
  response.setHeader(
    'x-asked',
    `${asked.headers.host} ${asked.url} ${asked.headers['proxy-authorization'] ?? 'no login'}`,
  );
  response.end('hello');
};
const through = (proxy: string, noProxy: string[] = []) => openProxies({ proxy, noProxy }, {}).proxyFor;
const ask = (url: string, proxy: string, signal = new AbortController().signal) =>
  request(url, { headers: {}, signal, proxyFor: through(proxy) });
const textOf = async ({ body }: HttpAnswer): Promise<string> => {
  const pieces: Uint8Array[] = [];
  for await (const piece of body ?? []) pieces.push(piece);
  return Buffer.concat(pieces).toString();
};
const failureOf = (asked: Promise<unknown>): Promise<string> =>
  asked.then(
    () => 'no failure',
    (error: Error) => `${error.message}: ${(error.cause as Error | undefined)?.message}`,
  );

test('proxies come from the configuration, or from the environment, of which lower-case wins', () => {
  const https = { scheme: 'https', host: 'x.example.com', port: 443 } as const;
  const of = (config: { proxy?: string; noProxy?: string[] }, env: Record<string, string>) =>
    openProxies(config, env).proxyFor(https)?.name ?? null;
  const env = { HTTPS_PROXY: 'http://upper:1', HTTP_PROXY: 'http://plain:1', NO_PROXY: 'y.example.com, z.example.com' };
  expect(of({}, {})).toBeNull();
  expect(of({}, env)).toBe('http://upper:1');
  expect(of({}, { ...env, https_proxy: 'lower:2' })).toBe('http://lower:2');
  expect(of({}, { ...env, https_proxy: '' })).toBeNull();
  expect(of({}, { ALL_PROXY: 'http://all:1' })).toBe('http://all:1');
  expect(of({ proxy: 'http://mine:3' }, env)).toBe('http://mine:3');
  expect(of({ proxy: 'none' }, env)).toBeNull();
  expect(of({}, { ...env, NO_PROXY: 'y.example.com x.example.com' })).toBeNull();
  expect(of({}, { ...env, NO_PROXY: 'x.example.com', no_proxy: '' })).toBe('http://upper:1');
  expect(of({ noProxy: ['x.example.com'] }, env)).toBeNull();
  expect(openProxies({}, { HTTPS_PROXY: 'socks5://user:secret@x:1' }).problems).toEqual([
    expect.stringMatching(/^HTTPS_PROXY is no proxy(?!.*secret)/),
  ]);
});

test.skipIf(SKIPPED)('HTTP and HTTPS go through a real proxy that asks for a login', async () => {
  const proxy = await startTinyproxy(LOGIN);
  const [plain, secure] = [await listen(createServer(answer)), await listen(createSecureServer(TLS, answer))];
  const first = await ask(`http://localhost:${plain}/path?query=1`, proxy.url);
  expect([await textOf(first), first.headers.get('x-asked')]).toEqual([
    'hello',
    `localhost:${plain} /path?query=1 no login`,
  ]);
  for (let time = 0; time < 3; time += 1) {
    const next = await ask(`https://localhost:${secure}/path?query=2`, proxy.url);
    expect([await textOf(next), next.headers.get('x-asked')]).toEqual([
      'hello',
      `localhost:${secure} /path?query=2 no login`,
    ]);
  }
  const log = await proxy.log();
  expect(log).toContain(`GET http://localhost:${plain}/path?query=1`);
  // One tunnel for all three.
  expect(log.split(`CONNECT localhost:${secure}`)).toHaveLength(2);
});

test.skipIf(SKIPPED)('a real proxy that refuses says so in the error, without the login', async () => {
  const proxy = await startTinyproxy(LOGIN, 'ConnectPort 443\n');
  const plain = await listen(createServer(answer));
  const wrong = proxy.url.replace(/device:[^@]*/, 'device:secret');
  for (const url of [`http://localhost:${plain}/`, 'https://localhost:443/']) {
    const failure = await failureOf(ask(url, wrong));
    expect(failure).toContain(`the proxy ${proxy.name} `);
    expect(failure).toMatch(/40[17] /);
    expect(failure).not.toContain('secret');
  }
  expect(await failureOf(ask(`https://localhost:${plain}/`, proxy.url))).toMatch(
    new RegExp(`the proxy ${proxy.name} refuses to connect to localhost:${plain}: 403`),
  );
  expect(await failureOf(ask('http://localhost:1/', proxy.url))).toMatch(/has no answer of localhost:1: 50\d/);
});

const page = (status: string): string =>
  `HTTP/1.1 ${status}\r\ncontent-type: text/html\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno`;

test.each([
  ['407 Proxy Authentication Required', '407 Proxy Authentication Required: it asks for a user and a password'],
  ['403 Forbidden', '403 Forbidden'],
  ['502 Bad Gateway', '502 Bad Gateway'],
])('a proxy that answers %s is named, whatever was asked for', async (status, said) => {
  const proxy = await startBadProxy(page(status));
  expect(await failureOf(ask('http://x.example.com/', proxy.url))).toContain(
    `the proxy ${proxy.name} has no answer of x.example.com: ${said}`,
  );
  expect(await failureOf(ask('https://x.example.com/', proxy.url))).toContain(
    `the proxy ${proxy.name} refuses to connect to x.example.com:443: ${said}`,
  );
});

test('an answer of the server itself comes through a proxy, also when it is a refusal', async () => {
  const json = '{"code":"forbidden"}';
  const proxy = await startBadProxy(
    `HTTP/1.1 403 Forbidden\r\ncontent-type: application/problem+json\r\ncontent-length: ${json.length}\r\n\r\n${json}`,
  );
  const got = await ask('http://x.example.com/', proxy.url);
  expect([got.status, await textOf(got)]).toEqual([403, json]);
});

test('a proxy that is down, closes at once, or speaks another protocol is an error that names it', async () => {
  expect(await failureOf(ask('https://x.example.com/', 'http://127.0.0.1:1'))).toContain(
    'the proxy http://127.0.0.1:1 cannot be reached: ECONNREFUSED',
  );
  expect(await failureOf(ask('http://x.example.com/', 'http://127.0.0.1:1'))).toContain('ECONNREFUSED');
  const closing = await startBadProxy('');
  expect(await failureOf(ask('https://x.example.com/', closing.url))).toContain(
    `the proxy ${closing.name} cannot be reached`,
  );
  const other = await startBadProxy('SSH-2.0-OpenSSH_9.2\r\n');
  expect(await failureOf(ask('https://x.example.com/', other.url))).toContain(
    `the proxy ${other.name} cannot be reached`,
  );
});

test.each(['http://x.example.com/', 'https://x.example.com/'])(
  'a proxy that hangs holds %s no longer than it may take',
  async (url) => {
    const proxy = await startBadProxy(null);
    const late = new AbortController();
    const asked = ask(url, proxy.url, late.signal);
    await expect.poll(() => proxy.sockets.size).toBe(1);
    late.abort(new Error('too late'));
    await expect(asked).rejects.toThrow('too late');
  },
);

test('a proxy that answers shows that the network works', async () => {
  const proxy = await startBadProxy(page('502 Bad Gateway'));
  const options = { serverUrl: 'https://updates.invalid', probes: [], proxyFor: through(proxy.url) };
  expect(await examineNetwork(options, new AbortController().signal)).toEqual({
    reach: 'network',
    why: 'the proxy 127.0.0.1 answers',
  });
});

const openedLink = (url: string, proxy: string, ms = 60_000) => {
  const lines: { why?: string }[] = [];
  const link = openLink({
    url: () => url,
    device: Id.parse('gw-01'),
    login: () => 'login',
    boot: Id.parse('b1'),
    backoff: { firstMs: 10, maxMs: 50 },
    waits: { readyMs: ms, ackMs: 60_000, keepaliveS: 60 },
    proxyFor: through(proxy),
    log: pino({ level: 'debug' }, { write: (line: string) => lines.push(JSON.parse(line)) }),
    on: {
      connected: () => undefined,
      disconnected: () => undefined,
      desired: () => undefined,
      ack: () => undefined,
      logAck: () => undefined,
    },
  });
  onTestFinished(() => link.stop());
  return { link, whys: () => lines.map(({ why }) => why ?? '').join('\n') };
};

test.skipIf(SKIPPED)('MQTT goes through a real proxy, with and without TLS', async () => {
  const proxy = await startTinyproxy(LOGIN);
  const broker = await startScriptedBroker(() => HONEST);
  const secure = await listen(
    createTlsServer(TLS, (socket) => {
      socket
        .pipe(connect(broker.port, '127.0.0.1').on('error', () => undefined))
        .pipe(socket)
        .on('error', () => undefined);
    }),
  );
  for (const url of [`mqtt://localhost:${broker.port}`, `mqtts://localhost:${secure}`]) {
    const { link } = openedLink(url, proxy.url);
    await expect.poll(link.connected).toBe(true);
    await link.stop();
    expect(await proxy.log()).toContain(`CONNECT ${url.replace(/^mqtts?:\/\//, '')}`);
  }
});

test.skipIf(SKIPPED)('WebSockets are asked for through a real proxy, with and without TLS', async () => {
  const proxy = await startTinyproxy(LOGIN);
  const upgrades: string[] = [];
  for (const [scheme, server] of [
    ['ws', createServer()],
    ['wss', createSecureServer(TLS)],
  ] as const) {
    server.on('upgrade', (asked, socket) => {
      upgrades.push(`${scheme} ${asked.url} ${asked.headers['sec-websocket-protocol']}`);
      socket.destroy();
    });
    const { link } = openedLink(`${scheme}://localhost:${await listen(server)}/mqtt`, proxy.url);
    await expect.poll(() => upgrades).toContain(`${scheme} /mqtt mqtt`);
    await link.stop();
  }
});

test('a proxy that refuses MQTT, or hangs, is the reason in the log', async () => {
  const refusing = await startBadProxy(page('403 Forbidden'));
  const first = openedLink('mqtts://x.example.com', refusing.url);
  await expect
    .poll(first.whys)
    .toContain(`the proxy ${refusing.name} refuses to connect to x.example.com:8883: 403 Forbidden`);
  const hanging = await startBadProxy(null);
  const second = openedLink('mqtts://x.example.com', hanging.url, 100);
  await expect.poll(() => second.whys().length).toBeGreaterThan(0);
  expect(first.whys() + second.whys()).not.toContain('secret');
});

test.skipIf(SKIPPED)('a device behind a proxy enrols, installs and reports, and its log has no login', async () => {
  const proxy = await startTinyproxy(LOGIN);
  const server = await startTestServer();
  const device = await openDevice(server);
  const agent = device.start(undefined, { HTTP_PROXY: proxy.url, HTTPS_PROXY: proxy.url });
  server.desire((await server.publishRelease('1.0.0', APPS.good)).instruction);
  await until(
    'it is committed and reported',
    () => server.state.receipts.length === 1,
    60_000,
    () => agent.lines,
  );
  const log = await proxy.log();
  expect(log).toContain(`POST ${server.url}/device/v1/enrol`);
  expect(log).toContain(`GET ${server.url}/o/`);
  expect(log).toContain(`CONNECT ${server.mqttUrl.replace('mqtt://', '')}`);
  await agent.stop();
  expect(JSON.stringify(agent.lines) + agent.errorOutput()).not.toContain(LOGIN.password);

  // By its configuration, and without: what NO_PROXY names goes directly.
  const config = JSON.parse(await readFile(device.configFile, 'utf8')) as object;
  await writeFile(
    device.configFile,
    JSON.stringify({ ...config, proxy: 'http://127.0.0.1:1', noProxy: ['127.0.0.1'] }),
  );
  const direct = device.start(undefined, { HTTP_PROXY: proxy.url, HTTPS_PROXY: proxy.url });
  await until('it is connected', () => direct.lines.some(({ event }) => event === 'connected'));
  await direct.stop();
  expect((await proxy.log()).split('CONNECT')).toHaveLength(log.split('CONNECT').length);
});

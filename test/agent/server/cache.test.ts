import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { openCache } from '#agent/server/cache.ts';
import type { HttpAnswer, HttpGet } from '#agent/server/request.ts';
import { noise } from '#test/shared/transfer/bytes.ts';
import { openRig, prose } from '../transfer/rig.ts';

const NEVER = new AbortController().signal;
const MANIFEST = Buffer.from('{"format":1}');
const DIGEST = createHash('sha256').update(MANIFEST).digest('hex');
const TARGET = `/tuf/targets/fw/app/1.0.0/${DIGEST}.gw.json`;

const openCacheServer = async (answer: (path: string, response: ServerResponse) => void) => {
  const asked: { path: string; authorization: string | undefined }[] = [];
  const server = createServer((request, response) => {
    asked.push({ path: request.url ?? '', authorization: request.headers.authorization });
    answer(request.url ?? '', response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const cacheUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const stop = (): void => {
    server.closeAllConnections();
    server.close();
  };
  onTestFinished(stop);
  return { asked, cacheUrl, stop };
};

const textOf = async (answer: HttpAnswer): Promise<string> => {
  const pieces: Uint8Array[] = [];
  for await (const piece of answer.body ?? []) pieces.push(piece);
  return Buffer.concat(pieces).toString();
};
const origin: HttpGet = async () => ({
  status: 200,
  headers: { get: () => null },
  body: {
    async *[Symbol.asyncIterator]() {
      yield Buffer.from('from the server');
    },
    cancel: async () => undefined,
  },
});
const log = { info: () => undefined };

test('objects and manifests are asked of the cache, without a login; everything else of the server', async () => {
  const { asked, cacheUrl } = await openCacheServer(
    (path, response) => void response.end(path === TARGET ? MANIFEST : 'cached'),
  );
  const cache = openCache({ get: origin, cacheUrl, log });
  expect(await textOf(await cache.get('/o/1', {}, NEVER))).toBe('cached');
  expect(await textOf(await cache.get(TARGET, {}, NEVER))).toBe(MANIFEST.toString());
  for (const path of ['/tuf/metadata/timestamp.json', '/device/v1/desired'])
    expect(await textOf(await cache.get(path, {}, NEVER))).toBe('from the server');
  expect(asked).toEqual([
    { path: '/o/1', authorization: undefined },
    { path: TARGET, authorization: undefined },
  ]);
});

test('what a cache does not have, or may not give, the server gives', async () => {
  for (const status of [401, 403, 404, 500, 502]) {
    const { cacheUrl } = await openCacheServer((_path, response) => void response.writeHead(status).end('no'));
    const cache = openCache({ get: origin, cacheUrl, log });
    expect(await textOf(await cache.get('/o/1', {}, NEVER))).toBe('from the server');
  }
});

test('a cache that is not there, or gives another manifest, is left alone for a while', async () => {
  const { asked, cacheUrl, stop } = await openCacheServer((_path, response) => void response.end('another'));
  const lied = openCache({ get: origin, cacheUrl, log });
  for (let count = 0; count < 2; count += 1)
    expect(await textOf(await lied.get(TARGET, {}, NEVER))).toBe('from the server');
  expect(asked).toHaveLength(1);
  stop();
  const gone = openCache({ get: origin, cacheUrl, log });
  expect(await textOf(await gone.get('/o/1', {}, NEVER))).toBe('from the server');
});

test('a manifest without end is no manifest', async () => {
  const { cacheUrl } = await openCacheServer((_path, response) => {
    const pump = (): void => void (response.destroyed || response.write(noise('endless', 50_000), pump));
    pump();
  });
  const cache = openCache({ get: origin, cacheUrl, log });
  expect(await textOf(await cache.get(TARGET, {}, NEVER))).toBe('from the server');
});

test('a cache that lies, sends too much or too little costs a few requests, and the artifact is right all the same', async () => {
  const fresh = prose('cached', 600_000);
  const lies: ((response: ServerResponse) => void)[] = [
    (response) => void response.end(noise('lie', 600_000)),
    (response) => void response.writeHead(200, { 'content-length': 10 }).end('0123456789'),
    (response) => response.destroy(),
    (response) => {
      const pump = (): void => void (response.destroyed || response.write(noise('endless', 50_000), pump));
      pump();
    },
  ];
  for (const lie of lies) {
    const rig = await openRig(fresh);
    const { asked, cacheUrl } = await openCacheServer((_path, response) => lie(response));
    const cache = openCache({ get: rig.get, cacheUrl, log });
    const { getJson } = { getJson: async () => ({ ok: true as const, value: { pack: rig.pack } }) };
    const result = await rig.fetch({ http: { get: cache.get, getJson: getJson as never }, onTrouble: cache.distrust });
    expect(await rig.outcome(result)).toBe('whole');
    expect(asked.length).toBeGreaterThan(0);
    expect(asked.length).toBeLessThan(3);
  }
});

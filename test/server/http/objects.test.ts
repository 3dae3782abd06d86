import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { type IncomingHttpHeaders, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import type { FastifyInstance } from 'fastify';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { buildApp } from '#server/http/app.ts';
import { closeApp } from '#server/http/close-app.ts';
import { objectRoutes } from '#server/http/objects.ts';
import { type Objects, openObjects } from '#server/store/objects.ts';
import { openInProcessStore } from '#server/store/sqlite/open.ts';
import type { Store } from '#server/store/store.ts';
import { Sha256 } from '#shared/ids.ts';
import { refuse } from '#shared/problems.ts';
import { openFrame } from '#shared/transfer/pack.ts';

let dir: string;
let objects: Objects;
let store: Store;
let app: FastifyInstance;
let url: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-objects-http-'));
  objects = await openObjects(dir);
  app = await buildApp({
    version: '0.0.1',
    findOperator: async () => undefined,
    verifyDevice: async () => refuse('unauthenticated', 'no devices here'),
  });
  store = openInProcessStore(':memory:');
  objectRoutes(app, { objects, store, open: true });
  url = await app.listen({ host: '127.0.0.1', port: 0 });
});
afterEach(async () => {
  await closeApp(app);
  await store.close();
  await rm(dir, { recursive: true });
});

const keep = async (text: string): Promise<string> => {
  const staged = await objects.stage(
    (async function* () {
      yield Buffer.from(text);
    })(),
    { bytesMax: 1e6 },
  );
  if (!staged.ok) throw new Error(staged.detail);
  await objects.keep(staged.value);
  return staged.value.sha256;
};

test('objects are served whole, in ranges, and not at all when they are known', async () => {
  const text = '0123456789'.repeat(10_000);
  const sha256 = await keep(text);
  expect(sha256).toBe(createHash('sha256').update(text).digest('hex'));
  const etag = `"${sha256}"`;
  const get = async (headers: Record<string, string>, method = 'GET') => {
    const response = await fetch(`${url}/o/${sha256}`, { headers, method });
    const body = await response.text();
    return [response.status, response.headers.get('content-range'), response.headers.get('content-length'), body];
  };
  expect(await get({})).toEqual([200, null, '100000', text]);
  expect(await get({}, 'HEAD')).toEqual([200, null, '100000', '']);
  expect(await get({ range: 'bytes=0-3' })).toEqual([206, 'bytes 0-3/100000', '4', '0123']);
  expect(await get({ range: 'bytes=99995-' })).toEqual([206, 'bytes 99995-99999/100000', '5', '56789']);
  expect(await get({ range: 'bytes=-2' })).toEqual([206, 'bytes 99998-99999/100000', '2', '89']);
  expect(await get({ range: 'bytes=99998-200000' })).toEqual([206, 'bytes 99998-99999/100000', '2', '89']);
  expect(await get({ range: 'bytes=99998-', 'if-range': etag })).toEqual([206, 'bytes 99998-99999/100000', '2', '89']);
  expect(await get({ range: 'bytes=0-3', 'if-range': '"other"' })).toEqual([200, null, '100000', text]);
  expect((await get({ range: 'bytes=100000-' })).slice(0, 2)).toEqual([416, 'bytes */100000']);
  expect((await get({ range: 'bytes=-0' })).slice(0, 2)).toEqual([416, 'bytes */100000']);
  // Beyond what numbers hold is beyond the object: not another way to ask for all of it.
  for (const far of ['9007199254740991', '9'.repeat(400)]) {
    expect((await get({ range: `bytes=${far}-` })).slice(0, 2)).toEqual([416, 'bytes */100000']);
    expect(await get({ range: `bytes=99998-${far}` })).toEqual([206, 'bytes 99998-99999/100000', '2', '89']);
  }
  for (const range of ['bytes=0-1,5-6', 'bytes=5-1', 'bytes=-', 'lines=0-1', 'bytes=a-b']) {
    expect((await get({ range }))[0]).toBe(200);
  }
  expect((await get({ 'if-none-match': etag }))[0]).toBe(304);
  expect((await get({ 'if-none-match': '"x"' }))[0]).toBe(200);
  for (const path of ['/o/nonsense', `/o/${'0'.repeat(64)}`, '/o/..%2fkeys', `/o/${sha256.toUpperCase()}`]) {
    expect((await fetch(url + path)).status).toBe(404);
  }
});

test('an object may be cached forever', async () => {
  const response = await fetch(`${url}/o/${await keep('hello')}`);
  expect([response.status, await response.text()]).toEqual([200, 'hello']);
  expect(response.headers.get('cache-control')).toBe('public, max-age=31536000, immutable');
});

test('an empty object is served too', async () => {
  const sha256 = await keep('');
  expect(await (await fetch(`${url}/o/${sha256}`)).text()).toBe('');
  expect((await fetch(`${url}/o/${sha256}`, { headers: { range: 'bytes=0-' } })).status).toBe(416);
});

test('a reader that goes away in the middle leaves no open file', async () => {
  const sha256 = await keep('x'.repeat(900_000));
  const controller = new AbortController();
  const response = await fetch(`${url}/o/${sha256}`, { signal: controller.signal });
  controller.abort();
  await expect(response.arrayBuffer()).rejects.toThrow('abort');
  // Closing waits for what is still being sent: it would hang here.
  await closeApp(app);
});

test('a chunk is served by its digest out of the artifact that holds it, in ranges too', async () => {
  const text = '0123456789'.repeat(10_000);
  const artifact = Sha256.parse(await keep(text));
  const chunk = text.slice(20_005, 50_005);
  const sha256 = createHash('sha256').update(chunk).digest('hex');
  expect((await fetch(`${url}/o/${sha256}`)).status).toBe(404);
  await store.saveChunks(artifact, [{ sha256, offset: 20_005, bytes: 30_000 }], 0);
  const get = async (headers: Record<string, string>, method = 'GET') => {
    const response = await fetch(`${url}/o/${sha256}`, {
      headers: { 'accept-encoding': 'identity', ...headers },
      method,
    });
    const body = await response.text();
    return [response.status, response.headers.get('content-range'), response.headers.get('content-length'), body];
  };
  expect(await get({})).toEqual([200, null, '30000', chunk]);
  expect(await get({}, 'HEAD')).toEqual([200, null, '30000', '']);
  expect(await get({ range: 'bytes=1-4' })).toEqual([206, 'bytes 1-4/30000', '4', '6789']);
  expect(await get({ range: 'bytes=-2' })).toEqual([206, 'bytes 29998-29999/30000', '2', '34']);
  expect((await get({ range: 'bytes=30000-' })).slice(0, 2)).toEqual([416, 'bytes */30000']);
  expect((await get({ 'if-none-match': `"${sha256}"` }))[0]).toBe(304);
});

test('a chunk comes compressed to a client that says that it can undo that, under a tag of its own', async () => {
  const text = '0123456789'.repeat(10_000);
  const artifact = Sha256.parse(await keep(text));
  const sha256 = createHash('sha256').update(text).update('chunk').digest('hex');
  await store.saveChunks(artifact, [{ sha256, offset: 0, bytes: 50_000 }], 0);
  const get = (path: string, encodings: string) =>
    new Promise<{ headers: IncomingHttpHeaders; body: Buffer }>((resolve, reject) => {
      request(`${url}/o/${path}`, { headers: { 'accept-encoding': encodings } }, (response) => {
        buffer(response).then((body) => resolve({ headers: response.headers, body }), reject);
      })
        .on('error', reject)
        .end();
    });
  for (const encodings of ['zstd', 'gzip, zstd;q=0.5', 'br , zstd ']) {
    const { headers, body } = await get(sha256, encodings);
    expect(headers).toMatchObject({
      'content-encoding': 'zstd',
      etag: `"${sha256}-zstd"`,
      vary: 'accept-encoding',
      'content-length': String(body.length),
    });
    // As a device opens it, with no more memory than it grants.
    expect(openFrame(body, null, 50_000).toString()).toBe(text.slice(0, 50_000));
  }
  for (const encodings of ['', 'gzip', '*', 'zstd;q=0', 'zstd;q=0.0']) {
    const { headers, body } = await get(sha256, encodings);
    expect([headers['content-encoding'], headers.etag, body.length]).toEqual([undefined, `"${sha256}"`, 50_000]);
  }
  // Artifacts, indexes and packs are ranged over: one form only.
  expect((await get(artifact, 'zstd')).headers['content-encoding']).toBeUndefined();
});

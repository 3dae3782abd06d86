// A stock nginx or squid in front of the server, with the very configuration of docs/operations.md.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { buildApp } from '#server/http/app.ts';
import { closeApp } from '#server/http/close-app.ts';
import { objectRoutes } from '#server/http/objects.ts';
import { type Objects, openObjects } from '#server/store/objects.ts';
import { openInProcessStore } from '#server/store/sqlite/open.ts';
import type { Store } from '#server/store/store.ts';
import type { Sha256 } from '#shared/ids.ts';
import { refuse } from '#shared/problems.ts';
import { noise } from '#test/shared/transfer/bytes.ts';

const PATH = `${process.env['PATH']}:/usr/sbin:/sbin`;
const hasTool = (name: string): boolean => {
  try {
    execFileSync('sh', ['-c', `command -v ${name}`], { env: { PATH }, stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
};
const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
};
/** The block of that language in the page that operators copy from. */
const documented = async (language: string): Promise<string> => {
  const page = await readFile(join(import.meta.dirname, '../../../docs/operations.md'), 'utf8');
  const [, block] = new RegExp(`\`\`\`${language}\n([^]*?)\`\`\``).exec(page) ?? [];
  if (block === undefined) throw new Error(`docs/operations.md has no ${language}`);
  return block;
};

type Setting = { dir: string; port: number; origin: number };
const CACHES = {
  nginx: async ({ dir, port, origin }: Setting) => {
    const site = (await documented('nginx'))
      .replace('listen 8088', `listen 127.0.0.1:${port}`)
      .replace('https://updates.example.com', `http://127.0.0.1:${origin}`)
      .replace('/var/cache/nginx/sluice', join(dir, 'cache'));
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
      (kind) => `${kind}_temp_path ${join(dir, kind)};`,
    );
    const around = `daemon off; pid ${join(dir, 'pid')}; error_log stderr; events {}\nhttp { access_log off; ${temporary.join(' ')}\n${site}}`;
    await writeFile(join(dir, 'nginx.conf'), around);
    return ['nginx', '-e', 'stderr', '-p', dir, '-c', join(dir, 'nginx.conf')];
  },
  squid: async ({ dir, port, origin }: Setting) => {
    const cache = join(dir, 'cache');
    await mkdir(cache);
    await chmod(cache, 0o777);
    const site = (await documented('squid'))
      .replace('http_port 8088', `http_port 127.0.0.1:${port}`)
      .replace('parent 443', `parent ${origin}`)
      .replace('originserver tls', 'originserver')
      .replace('cache_peer updates.example.com', 'cache_peer 127.0.0.1')
      .replace('/var/spool/squid', cache);
    const around = `pid_filename none\naccess_log none\ncache_log /dev/null\nnetdb_filename none\nshutdown_lifetime 0 seconds\n${site}`;
    await writeFile(join(dir, 'squid.conf'), around);
    execFileSync('squid', ['-N', '-z', '-f', join(dir, 'squid.conf')], { env: { PATH }, stdio: 'ignore' });
    return ['squid', '-N', '-f', join(dir, 'squid.conf')];
  },
};

let dir: string;
let objects: Objects;
let store: Store;
let app: FastifyInstance;
let asked: string[];
let cache: ChildProcess | undefined;
let url: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-cache-'));
  await chmod(dir, 0o755);
  objects = await openObjects(join(dir, 'server'));
  store = openInProcessStore(':memory:');
  asked = [];
  app = await buildApp({
    version: '0.0.1',
    findOperator: async () => undefined,
    verifyDevice: async () => refuse('unauthenticated', 'no devices here'),
  });
  app.addHook('onRequest', async (request) => void asked.push(request.url));
  objectRoutes(app, { objects, store, open: true });
});
afterEach(async () => {
  const ended = new Promise((resolve) => (cache?.exitCode === null ? cache.once('exit', resolve) : resolve(0)));
  cache?.kill('SIGTERM');
  await ended;
  await closeApp(app);
  await store.close();
  await rm(dir, { recursive: true, force: true });
});

const keep = async (bytes: Buffer): Promise<Sha256> => {
  const body = (async function* () {
    yield bytes;
  })();
  const staged = await objects.stage(body, { bytesMax: bytes.length });
  if (!staged.ok) throw new Error(staged.detail);
  await objects.keep(staged.value);
  return staged.value.sha256;
};
const start = async (kind: keyof typeof CACHES): Promise<void> => {
  const origin = Number(new URL(await app.listen({ host: '127.0.0.1', port: 0 })).port);
  const port = await freePort();
  const [command, ...args] = await CACHES[kind]({ dir, port, origin });
  url = `http://127.0.0.1:${port}`;
  cache = spawn(command!, args, { env: { PATH }, stdio: 'ignore' });
  await expect
    .poll(
      () =>
        fetch(`${url}/elsewhere`).then(
          ({ status }) => status,
          () => 0,
        ),
      { timeout: 60_000 },
    )
    .toBeGreaterThan(0);
  asked = [];
};
const get = async (sha256: string, range?: string): Promise<Buffer> => {
  const headers = { 'accept-encoding': 'identity', ...(range === undefined ? {} : { range }) };
  const response = await fetch(`${url}/o/${sha256}`, { headers });
  expect(response.status).toBe(range === undefined ? 200 : 206);
  return Buffer.from(await response.arrayBuffer());
};

describe.each(['nginx', 'squid'] as const)('%s as the shared cache of a site', (kind) => {
  const there = hasTool(kind);

  test.skipIf(!there)(
    `the second device's fetch makes no request at the server (${kind} must be installed)`,
    async () => {
      const artifact = noise('artifact', 2_500_000);
      const chunk = artifact.subarray(100_000, 170_000);
      const [whole, pack] = [await keep(artifact), await keep(noise('pack', 300_000))];
      const chunkSha256 = createHash('sha256').update(chunk).digest('hex');
      await store.saveChunks(whole, [{ sha256: chunkSha256, offset: 100_000, bytes: 70_000 }], 0);
      await start(kind);
      const device = async (): Promise<void> => {
        expect((await get(pack)).equals(noise('pack', 300_000))).toBe(true);
        expect((await get(chunkSha256)).equals(chunk)).toBe(true);
        // As after a download that broke off, and then from the beginning.
        expect((await get(whole, 'bytes=2000000-')).equals(artifact.subarray(2_000_000))).toBe(true);
        expect((await get(whole)).equals(artifact)).toBe(true);
        expect((await get(whole, 'bytes=10-19')).equals(artifact.subarray(10, 20))).toBe(true);
      };
      await device();
      expect(asked.length).toBeGreaterThanOrEqual(3);
      // A cache may write an object down after it has answered.
      await expect
        .poll(
          async () => {
            const before = asked.length;
            await device();
            return asked.length - before;
          },
          { timeout: 60_000 },
        )
        .toBe(0);

      // That something is not there is not kept, and nothing but objects passes.
      const bytes = noise('late', 100_000);
      const sha256 = createHash('sha256').update(bytes).digest('hex');
      const missing = await fetch(`${url}/o/${sha256}`);
      expect([missing.status, missing.headers.get('content-type')]).toEqual([404, 'application/problem+json']);
      await missing.arrayBuffer();
      await keep(bytes);
      expect((await get(sha256)).equals(bytes)).toBe(true);
      const before = asked.length;
      expect((await fetch(`${url}/api/v1/devices`)).status).toBeOneOf([403, 404]);
      expect(asked.length).toBe(before);
    },
  );
});

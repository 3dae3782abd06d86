import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import { Updater } from 'tuf-js';
import { afterEach, describe, expect, test } from 'vitest';
import { openKeyring } from '#server/trust/keyring.ts';
import { openRepository, type Repository } from '#server/trust/repository.ts';
import { Id } from '#shared/ids.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { parseTuf } from '#shared/trust/tuf.ts';
import {
  DAY_MS,
  manifestOf,
  newFolder,
  newSigner,
  PRODUCT,
  rsaSigner,
  type ThrowAway,
  throwAway,
} from './throw-away.ts';

const servers: Server[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) await new Promise((done) => server.close(done).closeAllConnections());
});
/** Serves the repository as the server does: through `read`. */
const serve = async (repository: Pick<Repository, 'read'>): Promise<string> => {
  const server = createServer((request, response) => {
    const [, , kind, ...name] = (request.url ?? '').split('/').map(decodeURIComponent);
    repository.read(kind === 'metadata' ? 'metadata' : 'targets', name.join('/')).then(
      (bytes) => response.writeHead(bytes === undefined ? 404 : 200).end(bytes),
      () => response.writeHead(500).end(),
    );
  });
  servers.push(server);
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  const address = server.address();
  if (typeof address !== 'object') throw new Error('the server listens nowhere');
  return `http://127.0.0.1:${address?.port}/tuf`;
};

/** A TUF client that knows nothing of Sluice but the root. */
const foreignClient = async (repository: Repository, dir?: string) => {
  const client = dir ?? (await newFolder());
  const url = await serve(repository);
  await mkdir(join(client, 'targets'), { recursive: true });
  await writeFile(join(client, 'root.json'), (await repository.rootDocuments())[0]!);
  return new Updater({
    metadataDir: client,
    metadataBaseUrl: `${url}/metadata`,
    targetDir: join(client, 'targets'),
    targetBaseUrl: `${url}/targets`,
    config: { fetchRetry: 0 },
  });
};

/** tuf-js judges expiry by the real clock. */
const atRealTime = async (ci = newSigner()): Promise<ThrowAway> => {
  const server = await throwAway(ci);
  server.clock.now = Date.now();
  return { ...server, repository: await server.reopen() };
};

const PATH = 'fw/gateway/1.0.0/gw2.json';
const versionsIn = async (repository: Repository) => {
  const timestamp = parseTuf('timestamp', (await repository.read('metadata', 'timestamp.json'))!);
  if (!timestamp.ok) throw new Error(timestamp.why);
  const { version, snapshotMeta, expires } = timestamp.document.signed;
  const snapshot = parseTuf('snapshot', (await repository.read('metadata', `${snapshotMeta.version}.snapshot.json`))!);
  if (!snapshot.ok) throw new Error(snapshot.why);
  const roles = Object.fromEntries(
    Object.entries(snapshot.document.signed.meta).map(([name, meta]) => [name, meta.version]),
  );
  return { timestamp: version, expires: Date.parse(expires), snapshot: snapshotMeta.version, roles };
};

describe('the public tuf-js client', () => {
  test.each([
    ['ed25519', newSigner],
    ['rsa-3072', rsaSigner],
  ])('accepts what we serve, signed by a CI key of kind %s', async (_kind, signer) => {
    const server = await atRealTime(signer());
    const manifest = await server.publish('1.0.0');
    const updater = await foreignClient(server.repository);
    await updater.refresh();
    const target = await updater.getTargetInfo(PATH);
    expect(target?.length).toBe(manifest.length);
    expect(await readFile(await updater.downloadTarget(target!))).toEqual(manifest);
    expect(await updater.getTargetInfo('fw/gateway/9.9.9/gw2.json')).toBeUndefined();
  });

  test('follows publications, renewed roots and new products', async () => {
    const server = await atRealTime();
    await server.publish('1.0.0');
    const dir = await newFolder();
    await (await foreignClient(server.repository, dir)).refresh();
    server.clock.now += 200 * DAY_MS; // the root is past half of its life, and what is signed now is valid all the more
    await server.repository.refresh();
    await server.repository.delegateProduct(Id.parse('other'), [newSigner().key]);
    await server.publish('1.1.0');
    const updater = await foreignClient(server.repository, dir);
    await updater.refresh();
    expect((await server.repository.rootDocuments()).length).toBe(2);
    expect(await updater.getTargetInfo('fw/gateway/1.1.0/gw2.json')).toBeDefined();
  });

  test('finds one product although another has published nothing yet', async () => {
    const server = await atRealTime();
    await server.repository.delegateProduct(Id.parse('silent'), [newSigner().key]);
    await server.publish('1.0.0');
    const updater = await foreignClient(server.repository);
    expect(await updater.getTargetInfo(PATH)).toBeDefined();
  });
});

test('the first start makes a whole repository, whose root never changes', async () => {
  const server = await throwAway();
  const { roles } = await versionsIn(server.repository);
  expect(roles).toEqual({ 'targets.json': 2, 'director.json': 1, 'log.json': 1 });
  const reopened = await server.reopen();
  expect(reopened.rootSha256).toBe(server.repository.rootSha256);
  expect(sha256Hex((await reopened.read('metadata', '1.root.json'))!)).toBe(reopened.rootSha256);
  expect(await versionsIn(reopened)).toEqual(await versionsIn(server.repository));
});

test('keys are for their owner only, are made once, and are never made again when taken away', async () => {
  const dir = join(await newFolder(), 'keys');
  const first = await openKeyring(dir);
  expect(first.created).toBe(true);
  for (const name of await readdir(dir)) expect((await stat(join(dir, name))).mode & 0o777).toBe(0o600);
  await rm(join(dir, 'root.pem'));
  const second = await openKeyring(dir);
  expect(second).toMatchObject({ created: false, root: null, director: { keyId: first.director.keyId } });
  await rm(join(dir, 'log.pem'));
  await expect(openKeyring(dir)).rejects.toThrow('log key is missing');
});

test('a keyring made half is finished, keeping what was there', async () => {
  const dir = join(await newFolder(), 'keys');
  const first = await openKeyring(dir);
  await rm(join(dir, 'keyring.json'));
  await rm(join(dir, 'log.pem'));
  const second = await openKeyring(dir);
  expect(second.root?.keyId).toBe(first.root?.keyId);
  expect(second.log.keyId).not.toBe(first.log.keyId);
});

test("another server's keys are refused", async () => {
  const server = await throwAway();
  const strangers = await openKeyring(join(await newFolder(), 'keys'));
  const open = openRepository({ dir: join(server.dir, 'tuf'), keyring: strangers, now: () => server.clock.now });
  await expect(open).rejects.toThrow('right data folder');
});

test('without the root and targets keys the server goes on, but delegates nothing', async () => {
  const server = await throwAway();
  const keyring = { ...server.keyring, root: null, targets: null };
  const repository = await openRepository({ dir: join(server.dir, 'tuf'), keyring, now: () => server.clock.now });
  server.clock.now += 2 * DAY_MS;
  await repository.refresh();
  await repository.delegateProduct(PRODUCT, [server.ci.key]); // as it is already
  await expect(repository.delegateProduct(Id.parse('new'), [newSigner().key])).rejects.toThrow('targets key');
});

test('refreshing signs again what is past half of its life, and nothing else', async () => {
  const server = await throwAway();
  const first = await versionsIn(server.repository);
  server.clock.now += DAY_MS / 4;
  await server.repository.refresh();
  expect(await versionsIn(server.repository)).toEqual(first);
  server.clock.now += DAY_MS / 2;
  await server.repository.refresh();
  const second = await versionsIn(server.repository);
  expect(second.timestamp).toBeGreaterThan(first.timestamp);
  expect(second.expires).toBe(server.clock.now + DAY_MS);
  expect(second.snapshot).toBe(first.snapshot);
  server.clock.now += 4 * DAY_MS;
  await server.repository.refresh();
  expect((await versionsIn(server.repository)).snapshot).toBeGreaterThan(first.snapshot);
  server.clock.now += 200 * DAY_MS;
  await server.repository.refresh();
  expect((await versionsIn(server.repository)).roles).toEqual({ 'targets.json': 3, 'director.json': 2, 'log.json': 2 });
});

test('a server that was down for a month is fresh again when it has started', async () => {
  const server = await throwAway();
  server.clock.now += 30 * DAY_MS;
  expect((await versionsIn(await server.reopen())).expires).toBe(server.clock.now + DAY_MS);
});

test('what is restored from an old backup does not repeat versions that devices have seen', async () => {
  const server = await throwAway();
  const old = await readFile(join(server.dir, 'tuf', 'metadata', 'timestamp.json'));
  server.clock.now += 3_600_000;
  await server.publish('1.0.0');
  const seen = await versionsIn(server.repository);
  await writeFile(join(server.dir, 'tuf', 'metadata', 'timestamp.json'), old);
  server.clock.now += 3_600_000 * 24;
  const restored = await versionsIn(await server.reopen());
  expect(restored.timestamp).toBeGreaterThan(seen.timestamp);
});

test('publishing is idempotent, ignores what is older, and refuses what clients would refuse', async () => {
  const server = await throwAway();
  await server.publish('1.0.0');
  const first = server.document()!;
  await server.publish('1.1.0');
  const { roles, timestamp } = await versionsIn(server.repository);
  expect(roles['ci-gateway.json']).toBe(2);
  await server.repository.publishDelegation(PRODUCT, 1, first);
  await server.repository.publishDelegation(PRODUCT, 2, server.document()!);
  expect((await versionsIn(server.repository)).timestamp).toBe(timestamp);
  await expect(server.repository.publishDelegation(PRODUCT, 3, server.document()!)).rejects.toThrow('not signed');
  await expect(server.repository.publishDelegation(Id.parse('unknown'), 3, server.document()!)).rejects.toThrow(
    'not signed',
  );
});

test('many publications at once come one after the other', async () => {
  const server = await throwAway();
  const names = Array.from({ length: 12 }, (_, index) => Id.parse(`product-${index}`));
  await Promise.all(names.map((name) => server.repository.delegateProduct(name, [newSigner().key])));
  const targets = parseTuf('targets', Buffer.from(await server.repository.targetsDocument()));
  expect(targets.ok && Object.keys(targets.document.signed.delegations?.roles ?? {}).length).toBe(names.length + 3);
  expect((await versionsIn(server.repository)).roles['targets.json']).toBe(2 + names.length);
});

describe('a crash', () => {
  /** All that the folder holds. */
  const filesOf = async (server: ThrowAway) => {
    const dir = join(server.dir, 'tuf', 'metadata');
    const names = await readdir(dir);
    return new Map(
      await Promise.all(names.map(async (name) => [name, await readFile(join(dir, name), 'utf8')] as const)),
    );
  };
  const restore = async (server: ThrowAway, files: Map<string, string>): Promise<void> => {
    const dir = join(server.dir, 'tuf', 'metadata');
    await rm(dir, { recursive: true });
    await mkdir(dir);
    for (const [name, text] of files) await writeFile(join(dir, name), text);
  };

  test('after any write of a publication leaves the old repository or the new, and the next start goes on', async () => {
    const server = await atRealTime();
    await server.publish('1.0.0');
    const before = await filesOf(server);
    const manifest = await server.publish('1.1.0');
    const after = await filesOf(server);
    const written = [...after].filter(([name, text]) => before.get(name) !== text);
    // The timestamp is the last: without it, all else is there but not named.
    const order = written.sort(([a], [b]) => Number(a === 'timestamp.json') - Number(b === 'timestamp.json'));
    expect(order.length).toBe(3);
    for (let done = 0; done <= order.length; done += 1) {
      await restore(server, new Map([...before, ...order.slice(0, done), ['timestamp.json.0badcafe.tmp', '{"half']]));
      const repository = await server.reopen();
      const updater = await foreignClient(repository);
      const found = await updater.getTargetInfo('fw/gateway/1.1.0/gw2.json');
      expect(found?.length).toBe(done === order.length ? manifest.length : undefined);
      expect(await updater.getTargetInfo(PATH)).toBeDefined();
      // What was accepted is staged again, and then it is there.
      await repository.publishDelegation(PRODUCT, 2, server.document()!);
      expect(await (await foreignClient(repository)).getTargetInfo('fw/gateway/1.1.0/gw2.json')).toBeDefined();
      expect((await readdir(join(server.dir, 'tuf', 'metadata'))).filter((name) => name.endsWith('.tmp'))).toEqual([]);
    }
  });

  test('in the middle of the first start is mended by the next', async () => {
    const server = await throwAway();
    const files = [...(await filesOf(server))];
    const rootFirst = files.sort(([a], [b]) => Number(b === '1.root.json') - Number(a === '1.root.json'));
    const first = rootFirst.filter(([name]) =>
      ['1.root.json', '1.targets.json', '1.director.json', '1.log.json'].includes(name),
    );
    for (let done = 0; done <= first.length; done += 1) {
      await restore(server, new Map(first.slice(0, done)));
      const repository = await server.reopen();
      const { roles } = await versionsIn(repository);
      expect(Object.keys(roles).sort()).toEqual(['director.json', 'log.json', 'targets.json']);
    }
  });

  test('a lost timestamp is made again, with a later version', async () => {
    const server = await throwAway();
    await server.publish('1.0.0');
    const before = await versionsIn(server.repository);
    server.clock.now += 60_000;
    await rm(join(server.dir, 'tuf', 'metadata', 'timestamp.json'));
    const after = await versionsIn(await server.reopen());
    expect(after.timestamp).toBeGreaterThan(before.timestamp);
    expect(after.roles).toEqual(before.roles);
  });

  test('of the disk that damaged published metadata is said loudly', async () => {
    const server = await throwAway();
    await writeFile(join(server.dir, 'tuf', 'metadata', '2.targets.json'), '{}');
    await expect(server.reopen()).rejects.toThrow('2.targets.json is damaged or missing');
  });
});

test('only names of metadata and of manifests are ever read', async () => {
  const server = await throwAway();
  const bytes = manifestOf('1.0.0');
  await server.repository.putManifest(PATH, bytes);
  const read = (name: string) => server.repository.read('targets', name);
  expect(await read(`fw/gateway/1.0.0/${sha256Hex(bytes)}.gw2.json`)).toEqual(bytes);
  for (const name of [
    '',
    '/',
    '..',
    '../keys/root.pem',
    'fw/gateway/1.0.0/gw2.json',
    `fw/../../keys/${sha256Hex(bytes)}.root.pem`,
  ]) {
    expect(await read(name)).toBeUndefined();
  }
  for (const name of [
    '',
    '..',
    '../../keys/root.pem',
    'root.json',
    '0.root.json',
    '1.root.json.tmp',
    '1.a/b.json',
    'timestamp.json/..',
    '1...json',
    '1.__proto__.json',
    '1.1.root.json',
    '1.root\0.json',
    `1.${'r'.repeat(250)}.json`,
  ]) {
    expect(await server.repository.read('metadata', name)).toBeUndefined();
  }
  await expect(server.repository.putManifest('fw/gateway/../x.json', bytes)).rejects.toThrow(
    'not the path of a manifest',
  );
});

test('old versions go after a while, but never the root or what is current', async () => {
  const server = await throwAway();
  await server.publish('1.0.0');
  for (let day = 0; day < 90; day += 1) {
    server.clock.now += DAY_MS;
    await server.repository.refresh();
  }
  const names = await readdir(join(server.dir, 'tuf', 'metadata'));
  expect(names.filter((name) => name.endsWith('.snapshot.json')).length).toBeLessThanOrEqual(16);
  expect(names).toContain('1.root.json');
  expect(names).toContain('1.ci-gateway.json');
  expect((await versionsIn(await server.reopen())).roles['ci-gateway.json']).toBe(1);
});

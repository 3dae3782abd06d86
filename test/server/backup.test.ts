/** Backups of a server that runs, made by the real command, and servers that are started on what was restored. */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeBackup } from '#server/backup.ts';
import { type RunningServer, startServer } from '#server/main.ts';
import { restoreBackup } from '#server/restore.ts';
import { objectFile } from '#server/store/objects.ts';
import { objectPath } from '#shared/device-api.ts';
import { runSluice } from '#test/cli/run.ts';
import { buildSamples } from '../../firmware-samples/build.ts';
import { admit, ask, configFor, newFolder, removeFolder } from './running.ts';

let folder: string;
let data: string;
let server: RunningServer;
let token: string;
const now = Date.now;

const sluice = (url: string, ...line: string[]) =>
  runSluice(line, { environment: { SLUICE_URL: url, SLUICE_TOKEN: token }, cwd: folder });
const succeed = async (url: string, ...line: string[]) => {
  const ran = await sluice(url, ...line, '--json');
  expect(ran).toMatchObject({ code: 0 });
  return JSON.parse(ran.out);
};
const get = (at: RunningServer, path: string) => ask(at.httpUrl, token, 'GET', path);

beforeAll(async () => {
  folder = await newFolder();
  data = join(folder, 'data');
  server = await startServer(configFor(data));
  token = server.adminToken!;
  const { key, samples } = await buildSamples(join(folder, 'samples'));
  const files = samples.filter(({ sample }) => sample === 'good-1.0.0').map((one) => one.file);
  await succeed(server.httpUrl, 'product', 'create', 'gateway', '--key', key);
  await succeed(server.httpUrl, 'release', 'publish', ...files, '--key', key, '--stage', 'staging');
});
afterAll(async () => {
  await server.stop();
  await removeFolder(folder);
});

/** As many as may enrol from one address without a pause, and as the audit log shows on one page. */
const ROUNDS_MAX = 150;
/** People and devices go on working until told to stop; how often they have. */
const keepBusy = () => {
  const stop = new AbortController();
  const worked = (async () => {
    let rounds = 0;
    for (; rounds < ROUNDS_MAX && !stop.signal.aborted; rounds += 1) {
      await admit(server.httpUrl, token, `gw-${rounds}`);
      await ask(server.httpUrl, token, 'POST', '/api/v1/operators', { name: `op-${rounds}`, role: 'viewer' });
    }
    return rounds;
  })();
  return async () => {
    stop.abort();
    return worked;
  };
};

test('a backup made during writes restores to a server that agrees with itself, with the log, and with the first one', async () => {
  const stopWork = keepBusy();
  const [backup, restored] = [join(folder, 'backup'), join(folder, 'restored')];
  const made = await succeed(server.httpUrl, 'backup', backup, '--data-dir', data);
  const { items: before } = await get(server, '/api/v1/audit?limit=1000');
  expect(await stopWork()).toBeGreaterThan(0);
  expect((await stat(backup)).mode & 0o077).toBe(0);
  expect(made).toMatchObject({ audit: { size: expect.any(Number) }, objects: expect.any(Number) });
  expect(made.objects).toBeGreaterThan(0);

  expect(await succeed(server.httpUrl, 'restore', backup, '--data-dir', restored)).toMatchObject({ audit: made.audit });
  const again = await startServer(configFor(restored));
  try {
    expect(again.adminToken).toBeNull();
    const { items: after } = await get(again, '/api/v1/audit?limit=1000');
    expect(after.slice(0, made.audit.size)).toEqual(before.slice(0, made.audit.size));
    expect(after.slice(made.audit.size)).toMatchObject([{ kind: 'server-restored' }]);
    expect(await get(again, '/api/v1/releases')).toEqual(await get(server, '/api/v1/releases'));
    const devices = (await get(again, '/api/v1/devices?limit=1000')).items.length;
    const enrolled = before
      .slice(0, made.audit.size)
      .filter(({ kind }: { kind: string }) => kind === 'device-enrolled');
    expect(devices).toBe(enrolled.length);
    const { objects } = JSON.parse(await readFile(join(backup, 'backup.json'), 'utf8'));
    for (const sha256 of objects) {
      const answer = await fetch(again.httpUrl + objectPath(sha256), { headers: { authorization: `Bearer ${token}` } });
      expect(
        createHash('sha256')
          .update(Buffer.from(await answer.arrayBuffer()))
          .digest('hex'),
      ).toBe(sha256);
    }
    const exported = join(folder, 'audit.ndjson');
    expect(await sluice(again.httpUrl, 'audit', 'export', '--out', exported)).toMatchObject({ code: 0 });
    expect(await sluice(again.httpUrl, 'audit', 'verify', exported)).toMatchObject({ code: 0 });
    // It can still publish: keys and metadata are of one state.
    await succeed(again.httpUrl, 'product', 'create', 'other', '--key', join(folder, 'samples', 'ci.pub.pem'));
  } finally {
    await again.stop();
  }
});

/** All rows of all tables. */
const dump = (file: string): Record<string, unknown[]> => {
  const database = new Database(file, { readonly: true });
  try {
    const names = database.prepare(`SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name`).pluck().all();
    return Object.fromEntries(names.map((name) => [name, database.prepare(`SELECT * FROM "${String(name)}"`).all()]));
  } finally {
    database.close();
  }
};

test('of a server that has stopped, everything is restored but for what the restore itself notes', async () => {
  const own = join(folder, 'stopped');
  const first = await startServer(configFor(own));
  await admit(first.httpUrl, first.adminToken!, 'gw-1');
  await first.stop();
  const [backup, restored] = [join(folder, 'backup-stopped'), join(folder, 'restored-stopped')];
  expect(await makeBackup({ dataDir: own, into: backup, now })).toMatchObject({ ok: true });
  const snapshot = dump(join(backup, 'sluice.db'));
  expect(snapshot).toEqual(dump(join(own, 'sluice.db')));
  expect(await restoreBackup({ from: backup, dataDir: restored, now })).toMatchObject({ ok: true });
  expect((await readdir(restored)).sort()).toEqual(['keys', 'lock.db', 'sluice.db', 'tuf']);
  const after = dump(join(restored, 'sluice.db'));
  const changed = Object.keys(snapshot).filter(
    (table) => JSON.stringify(after[table]) !== JSON.stringify(snapshot[table]),
  );
  expect(changed.filter((table) => !table.startsWith('audit') && table !== 'sqlite_sequence')).toEqual(['devices']);
  expect(after['devices']).toMatchObject([{ id: 'gw-1', desired_seq: 1_000_000 }]);
  for (const name of await readdir(join(own, 'keys'))) {
    expect(await readFile(join(restored, 'keys', name))).toEqual(await readFile(join(own, 'keys', name)));
    expect((await stat(join(restored, 'keys', name))).mode & 0o077).toBe(0);
  }
});

test('a damaged or incomplete backup is refused, and nothing of it stays', async () => {
  const backup = join(folder, 'backup-damaged');
  const target = join(folder, 'never');
  const made = await makeBackup({ dataDir: data, into: backup, now });
  if (!made.ok) throw new Error(made.detail);
  const file = objectFile(backup, made.value.objects[0]!);
  const good = await readFile(file);
  // Another file in its place: the object itself has two names, and must stay good.
  const replace = async (bytes: Buffer) => {
    await rm(file);
    await writeFile(file, bytes);
  };
  await replace(Buffer.concat([good.subarray(0, -1), Buffer.from([good.at(-1)! ^ 1])]));
  const flipped = await sluice(server.httpUrl, 'restore', backup, '--data-dir', target);
  expect(flipped).toMatchObject({ code: 1, err: expect.stringContaining('damaged') });
  expect(await readdir(target)).toEqual([]);
  await rm(file);
  expect(await restoreBackup({ from: backup, dataDir: target, now })).toMatchObject({ code: 'digest-mismatch' });
  await writeFile(file, good);
  expect(await restoreBackup({ from: backup, dataDir: target, now })).toMatchObject({ ok: true });
  await rm(join(backup, 'backup.json'));
  expect(await restoreBackup({ from: backup, dataDir: join(folder, 'nor-this'), now })).toMatchObject({
    code: 'not-found',
  });
});

test('a backup that names a file elsewhere is no backup, and nothing is written', async () => {
  const backup = join(folder, 'backup-elsewhere');
  const made = await makeBackup({ dataDir: data, into: backup, now });
  if (!made.ok) throw new Error(made.detail);
  for (const file of [
    'tuf/../../x',
    'keys/..',
    'keys//x',
    'tuf/a\0b',
    'tuf/a\\b',
    '/etc/x',
    `tuf/${'x'.repeat(300)}`,
  ]) {
    const files = { ...made.value.files, [file]: 'a'.repeat(64) };
    await writeFile(join(backup, 'backup.json'), JSON.stringify({ ...made.value, files }));
    const restored = await restoreBackup({ from: backup, dataDir: join(folder, 'nowhere'), now });
    expect({ file, ...restored }).toMatchObject({ code: 'not-found' });
  }
  expect(await readdir(folder)).not.toContain('nowhere');
});

test('neither command writes into a folder that is in use', async () => {
  const used = join(folder, 'used');
  await mkdir(used);
  await writeFile(join(used, 'letter.txt'), 'dear');
  expect(await makeBackup({ dataDir: data, into: used, now })).toMatchObject({ code: 'conflict' });
  expect(await makeBackup({ dataDir: data, into: join(data, 'inside'), now })).toMatchObject({ code: 'conflict' });
  expect(await makeBackup({ dataDir: used, into: join(folder, 'new'), now })).toMatchObject({ code: 'not-found' });
  const backup = join(folder, 'backup-used');
  expect(await makeBackup({ dataDir: data, into: backup, now })).toMatchObject({ ok: true });
  expect(await restoreBackup({ from: backup, dataDir: used, now })).toMatchObject({ code: 'conflict' });
  expect(await readdir(used)).toEqual(['letter.txt']);
});

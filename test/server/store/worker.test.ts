import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Worker } from 'node:worker_threads';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { MIGRATIONS, migrate } from '#server/store/sqlite/migrations.ts';
import { connectStore, openSqliteStore, StoreError } from '#server/store/sqlite/open.ts';
import { leafHash, rootOfHead, rootOfLeaves } from '#shared/trust/merkle.ts';
import { digest, id, line } from './records.ts';

let dir = '';
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-store-'));
});
afterEach(async () => rm(dir, { recursive: true }));

const errorOf = async (promise: Promise<unknown>): Promise<StoreError> => {
  const error = await promise.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  if (!(error instanceof StoreError)) throw new Error('expected a StoreError', { cause: error });
  return error;
};

test('what was written is there when the database is opened again', async () => {
  const file = join(dir, 'sluice.db');
  const first = await openSqliteStore(file);
  await first.setMeta('name', 'kept');
  await first.close();
  const second = await openSqliteStore(file);
  expect(await second.getMeta('name')).toBe('kept');
  await second.close();
});

test('an error in the thread comes back with its cause and code, and the store lives on', async () => {
  const store = await openSqliteStore(':memory:');
  const token = { tokenSha256: digest(1), expiresAt: 0, device: null, tags: {}, usedBy: null };
  const error = await errorOf(store.createEnrolmentTokens([token, token], line('tokens')));
  expect(error.message).toMatch(/^store\.createEnrolmentTokens: UNIQUE constraint failed/);
  expect(error.code).toBe('SQLITE_CONSTRAINT_PRIMARYKEY');
  expect(error.cause).toMatchObject({ name: 'SqliteError', code: 'SQLITE_CONSTRAINT_PRIMARYKEY' });
  expect(await store.getMeta('any')).toBeUndefined();
  await store.close();
});

test('arguments that cannot cross threads are refused and nothing else is', async () => {
  const store = await openSqliteStore(':memory:');
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a bug that types would catch
  await expect(store.setMeta('key', (() => 1) as never)).rejects.toThrow('could not be cloned');
  await store.setMeta('key', 'value');
  expect(await store.getMeta('key')).toBe('value');
  await store.close();
});

test('calls made before closing are answered, later ones are refused', async () => {
  const store = await openSqliteStore(':memory:');
  const before = store.setMeta('key', 'value');
  const closing = store.close();
  const after = errorOf(store.getMeta('key'));
  await before;
  await closing;
  expect((await after).message).toBe('the store is closed');
  await store.close();
});

test('when its thread dies every call that waits and every later one is rejected', async () => {
  const worker = new Worker(new URL('../../../server/store/sqlite/worker.ts', import.meta.url), {
    workerData: { file: ':memory:' },
  });
  const store = await connectStore(worker);
  // More than it can answer before it is ended; what it has answered by then is.
  const calls = Promise.allSettled(Array.from({ length: 5_000 }, () => store.appendAudit([line('a')])));
  await worker.terminate();
  const rejected = (await calls).filter((call) => call.status === 'rejected');
  expect(rejected.length).toBeGreaterThan(0);
  for (const { reason } of rejected) expect(String(reason)).toMatch(/^StoreError: .*thread ended/);
  expect((await errorOf(store.getMeta('key'))).message).toContain('thread ended');
  await store.close();
});

test('too many waiting calls are refused rather than kept', async () => {
  const store = await openSqliteStore(':memory:');
  const calls = await Promise.allSettled(Array.from({ length: 10_001 }, () => store.getMeta('key')));
  const refused = calls.filter((call) => call.status === 'rejected');
  expect(refused.map((call) => String(call.reason))).toEqual(['StoreError: store.getMeta: too many calls wait']);
  await store.close();
});

test('a file that is no database is a clear error', async () => {
  const file = join(dir, 'sluice.db');
  await writeFile(file, 'this is not a database, and long enough to be sure of it'.repeat(100));
  const error = await errorOf(openSqliteStore(file));
  expect(error.message).toBe('the database cannot be opened: file is not a database');
  expect(error.code).toBe('SQLITE_NOTADB');
});

test('a database of a newer version is a clear error', async () => {
  const file = join(dir, 'sluice.db');
  const database = new Database(file);
  database.pragma(`user_version = ${MIGRATIONS.length + 1}`);
  database.close();
  expect((await errorOf(openSqliteStore(file))).message).toContain('this version of Sluice knows only');
});

test('a migration that fails leaves the schema before it', () => {
  const database = new Database(':memory:');
  const steps = ['CREATE TABLE one (a)', 'CREATE TABLE two (a); CREATE TABLE one (a)'];
  expect(() => migrate(database, steps)).toThrow('table one already exists');
  expect(database.pragma('user_version', { simple: true })).toBe(1);
  expect(database.prepare('SELECT name FROM sqlite_schema').pluck().all()).toEqual(['one']);
  migrate(database, [steps[0]!, 'CREATE TABLE two (a)']);
  expect(database.pragma('user_version', { simple: true })).toBe(2);
  database.close();
});

test('a server that is killed while it writes has lost nothing that it acknowledged', async () => {
  const file = join(dir, 'sluice.db');
  for (const round of [1, 2, 3]) {
    const writer = spawn(process.execPath, [join(import.meta.dirname, 'writer.ts'), file], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const exited = once(writer, 'exit');
    let acknowledged = 0;
    let lines = 0;
    for await (const said of createInterface(writer.stdout)) {
      acknowledged = Number(said);
      lines += 1;
      if (lines === 40 * round) writer.kill('SIGKILL');
    }
    await exited;

    const store = await openSqliteStore(file);
    const { reportSeq } = (await store.getDevice(id('gw-1')))!;
    expect(reportSeq).toBeGreaterThanOrEqual(acknowledged);
    expect(Number(await store.getMeta('seq'))).toBeGreaterThanOrEqual(Math.min(acknowledged, lines));
    const entries = await store.readAudit(-1, 10_000);
    const reported = entries.filter(({ payload }) => payload.includes('"reported"'));
    expect(reported).toHaveLength(reportSeq);
    const leaves = entries.map(({ payload }) => leafHash(payload));
    expect(rootOfHead(await store.getAuditHead())).toBe(rootOfLeaves(leaves).toString('hex'));
    await store.close();
  }
});

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, utimes, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { type CheckOptions, performCheck } from '#agent/application/checks.ts';
import { HealthCheck } from '#shared/manifest.ts';

const GOOD = { ok: true, message: '' };
const perform = (check: object, more: Partial<CheckOptions> = {}) =>
  performCheck(HealthCheck.parse(check), { folder: '/', process: null, ...more }, new AbortController().signal);

const makeFolder = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-checks-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
};

test('a TCP check passes where someone accepts, also on the port of the application', async () => {
  const server = createServer((socket) => socket.end());
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' ? address!.port : 0;
  expect(await perform({ kind: 'tcp', port })).toEqual(GOOD);
  expect(await perform({ kind: 'tcp', port: '{port}' }, { port })).toEqual(GOOD);
  expect(await perform({ kind: 'tcp', port: '{port}' })).toMatchObject({ ok: false, message: /none is configured/ });
  onTestFinished(() => void server.close());
  // Of a port that no one has: one that is free again may be given to the next who asks.
  expect(await perform({ kind: 'tcp', port: 1 })).toEqual({ ok: false, message: '127.0.0.1 port 1: ECONNREFUSED' });
});

const startSleeper = async (): Promise<number> => {
  const child = spawn('sleep', ['600'], { stdio: 'ignore' });
  await once(child, 'spawn');
  onTestFinished(() => void child.kill('SIGKILL'));
  return child.pid!;
};

test('a process check finds a program by its name, and asks how long it has run', async () => {
  await startSleeper();
  expect(await perform({ kind: 'process', program: 'sleep' })).toEqual(GOOD);
  expect(await perform({ kind: 'process', program: 'no-such-program' })).toEqual({
    ok: false,
    message: 'no-such-program does not run',
  });
});

test('a process check by pid file fails when the process is gone, was started again, or the file says nonsense', async () => {
  const dir = await makeFolder();
  const check = { kind: 'process', pidFile: '{data}/service.pid' };
  const look = (more: object = {}) => perform({ ...check, ...more }, { dataDir: dir });
  expect(await look()).toMatchObject({ ok: false, message: /does not run/ });
  await writeFile(join(dir, 'service.pid'), `${await startSleeper()}\n`);
  expect(await look()).toEqual(GOOD);
  expect(await look({ upMs: 86_400_000 })).toMatchObject({ ok: false, message: /has run for only \d+ ms/ });
  for (const nonsense of ['', '-1', '1', '99999999999', 'abc', '4194305']) {
    await writeFile(join(dir, 'service.pid'), nonsense);
    expect([nonsense, (await look()).ok]).toEqual([nonsense, false]);
  }
});

test('a process check without a name is about the application: that it runs, and was not started again', async () => {
  const running = (ranMs: number) => ({ process: { running: () => ({ ranMs }) } });
  const check = { kind: 'process', upMs: 60_000 };
  expect(await perform(check, running(100_000))).toEqual(GOOD);
  expect(await perform(check, running(0))).toMatchObject({ ok: false, message: /the application has run/ });
  expect(await perform(check, { process: { running: () => null } })).toMatchObject({ ok: false });
  expect(await perform(check)).toEqual({ ok: false, message: 'the agent runs no application' });
});

test('a file check passes while the file is written now and then', async () => {
  const dir = await makeFolder();
  const file = join(dir, 'alive');
  const check = { kind: 'file', path: '{data}/alive', withinMs: 10_000 };
  expect(await perform(check, { dataDir: dir })).toMatchObject({ ok: false, message: /ENOENT/ });
  await writeFile(file, '');
  expect(await perform(check, { dataDir: dir })).toEqual(GOOD);
  expect(await perform({ ...check, path: 'alive' }, { folder: dir })).toEqual(GOOD);
  const ago = (ms: number) => utimes(file, new Date(), new Date(Date.now() - ms));
  await ago(20_000);
  expect(await perform(check, { dataDir: dir })).toMatchObject({ ok: false, message: /modified 2\d{4} ms ago/ });
  await ago(-3_600_000);
  expect(await perform(check, { dataDir: dir })).toMatchObject({ ok: false, message: /in the future/ });
});

test('a process is named by its program or by its pid file', () => {
  expect(HealthCheck.safeParse({ kind: 'process', program: 'a', pidFile: 'b' }).success).toBe(false);
});

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type FolderLock, lockDataFolder } from '#server/store/lock.ts';

let dir = '';
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-lock-'));
});
afterEach(async () => rm(dir, { recursive: true }));

const take = (folder: string): FolderLock => {
  const lock = lockDataFolder(folder);
  if (!lock.ok) throw new Error(lock.detail);
  return lock.value;
};

test('a data folder is for one server at a time, within one process too', () => {
  const folder = join(dir, 'new', 'data');
  const first = take(folder);
  expect(lockDataFolder(folder)).toEqual({
    ok: false,
    code: 'conflict',
    detail: `another Sluice server (process ${process.pid}) uses the data folder ${folder}`,
  });
  take(join(dir, 'other')).release();
  first.release();
  take(folder).release();
});

test('a lock is held against other processes, and a killed one leaves none behind', async () => {
  const holder = spawn(process.execPath, [join(import.meta.dirname, 'holder.ts'), dir], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = once(holder, 'exit');
  const [said] = await once(holder.stdout, 'data');
  expect(String(said).trim()).toBe('held');
  expect(lockDataFolder(dir)).toMatchObject({ ok: false, detail: expect.stringContaining(`process ${holder.pid}`) });
  holder.kill('SIGKILL');
  await exited;
  take(dir).release();
});

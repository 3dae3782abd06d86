import { execFileSync } from 'node:child_process';
import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { openDisk } from '#agent/disk/disk.ts';
import type { Log } from '#agent/log.ts';
import { canMount, smallDisk } from '../small-disk.ts';

const open = (dataDir: string) => {
  const said: string[] = [];
  const say = (_fields: object, message?: string) => void said.push(message ?? '');
  const log = { debug: say, info: say, warn: say, error: say } as unknown as Log;
  let changes = 0;
  let full = 0;
  const disk = openDisk(dataDir, () => 1_000, log);
  onTestFinished(() => disk.stop());
  const watch = () => disk.watch({ onChange: () => (changes += 1), onFull: async () => void (full += 1) });
  return { disk, said, watch, changes: () => changes, full: () => full };
};
const folder = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-disk-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
};
const systemError = (code: string): Error => Object.assign(new Error(code), { code });

test('what could not be written is said once, with what it means, and no bug is taken for it', async () => {
  for (const [code, state] of [
    ['ENOSPC', 'full'],
    ['EDQUOT', 'full'],
    ['EROFS', 'read-only'],
    ['EIO', 'failing'],
  ] as const) {
    const { disk, said } = open(await folder());
    expect([disk.trouble(), disk.attributes()]).toEqual([null, {}]);
    disk.missed('floor.json', systemError(code));
    disk.missed('the journal', systemError(code));
    expect(disk.trouble()).toEqual({ state, since: 1_000, message: `the journal cannot be written: ${code}` });
    expect(disk.attributes()).toEqual({ disk: state });
    expect(said).toHaveLength(1);
  }
  const { disk } = open(await folder());
  expect(() => disk.missed('floor.json', new TypeError('a bug'))).toThrow('a bug');
  await expect(disk.attempt('floor.json', () => Promise.reject(new TypeError('a bug')))).rejects.toThrow('a bug');
});

test('a look at a disk that is well again ends the trouble, and leaves nothing behind; one that was well is not written to', async () => {
  const dir = await folder();
  const { disk, said, watch, changes } = open(dir);
  disk.missed('the journal', systemError('EIO'));
  await watch();
  expect([disk.trouble(), said.at(-1), changes(), await readdir(dir)]).toEqual([
    null,
    'the disk can be written again',
    1,
    [],
  ]);
  const { mtimeMs } = await stat(dir);
  await watch();
  expect((await stat(dir)).mtimeMs).toBe(mtimeMs);
});

test('a folder that could not be made is made once that is possible', async () => {
  const dir = await folder();
  const { disk, watch } = open(dir);
  await writeFile(join(dir, 'trust'), 'in its way');
  await disk.folder(join(dir, 'trust', 'deep'), 0o700);
  expect(disk.attributes()).toEqual({ disk: 'failing' });
  await rm(join(dir, 'trust'));
  await watch();
  expect(((await stat(join(dir, 'trust/deep'))).mode & 0o777).toString(8)).toBe('700');
  expect(disk.trouble()).toBeNull();
});

test.skipIf(!canMount())(
  'a disk that others have filled, or that became read-only, is noticed without a write (on small file systems, which need root)',
  async () => {
    const dir = await smallDisk(1024 * 1024);
    const { disk, watch, full } = open(dir);
    await watch();
    expect(disk.trouble()).toBeNull();
    await writeFile(join(dir, 'filler'), Buffer.alloc(2 * 1024 * 1024)).catch(() => undefined);
    await watch();
    expect([disk.trouble(), full()]).toEqual([{ state: 'full', since: 1_000, message: '0 bytes are free' }, 1]);
    await rm(join(dir, 'filler'));
    await watch();
    expect(disk.trouble()).toBeNull();
    execFileSync('mount', ['-o', 'remount,ro', dir]);
    await watch();
    expect(disk.trouble()).toMatchObject({ state: 'read-only', message: 'the data folder cannot be written: EROFS' });
    execFileSync('mount', ['-o', 'remount,rw', dir]);
    await watch();
    expect(disk.trouble()).toBeNull();
  },
);

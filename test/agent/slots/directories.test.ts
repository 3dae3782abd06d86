import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { openSupervisor } from '#agent/application/supervisor.ts';
import { openDirectorySlots, slotFolder } from '#agent/slots/directories.ts';
import { deploy, folder, install, makeRelease, pair, viewOf } from './slot-pair.ts';

test('a new pair has nothing to boot', async () => {
  const { slots, reopen } = await pair();
  const empty = { active: null, trial: null, slots: { a: { state: 'unbootable' }, b: { state: 'unbootable' } } };
  expect(await viewOf(slots)).toEqual(empty);
  expect(await slots.boot()).toMatchObject({ booted: null });
  expect(await slots.running()).toBeNull();
  expect(await viewOf(await reopen())).toEqual(empty);
});

test('the application of a slot is started in its folder, on trial first, and kept running once it is committed', async () => {
  const { slots, supervisor, release, pairDir } = await pair();
  await install(slots, 'a', await release('1.0.0'));
  await slots.activate('a', { tries: 2, deployment: 'd1' });
  expect(await slots.boot()).toEqual({ booted: 'a', trial: true });
  expect(supervisor.application).toMatchObject({
    command: ['node', 'app.js'],
    folder: slotFolder(pairDir, 'a'),
    environment: { MODE: 'test', SLUICE_VERSION: '1.0.0', SLUICE_SLOT: 'a', SLUICE_PRODUCT: 'gateway' },
    onExit: 'report',
  });
  expect(await slots.commit()).toEqual({ ok: true });
  expect(supervisor.application?.onExit).toBe('restart');
  await slots.stop();
  await slots.stop();
  expect(supervisor.application).toBeNull();
});

test('a slot holds exactly the files of its release, and nothing of ours', async () => {
  const { slots, release, pairDir } = await pair();
  await install(slots, 'a', await release('1.0.0'));
  const names = await readdir(slotFolder(pairDir, 'a'), { recursive: true });
  expect(names.sort()).toEqual(['app.js', 'etc', 'etc/settings', 'lib', 'lib/deep', 'lib/deep/data', 'lib/main.js']);
  expect(await readFile(join(slotFolder(pairDir, 'a'), 'etc/settings'), 'utf8')).toBe('settings of 1.0.0');
  expect((await stat(join(slotFolder(pairDir, 'a'), 'etc/settings'))).mode & 0o777).toBe(0o755);
});

test('a release without an application needs no process to run', async () => {
  const { dir, slots, supervisor } = await pair();
  await deploy(slots, 'a', await makeRelease(dir, '1.0.0', { run: undefined }), 'd1');
  expect(supervisor.starts).toBe(0);
  expect(await slots.running()).toEqual({ slot: 'a', trial: false });
});

test('a real application is started from its slot, crashes on trial, and the old one runs again', async () => {
  const dir = await folder();
  const supervisor = await openSupervisor({ dir: join(dir, 'run'), stopMs: 1_000 });
  onTestFinished(() => supervisor.stop());
  const slots = await openDirectorySlots({ dir: join(dir, 'pair'), supervisor, dataDir: join(dir, 'data') });
  const good = 'setInterval(() => console.log("good", process.cwd(), process.env.SLUICE_DATA), 10)';
  const run = (source: string): object => ({ run: { command: ['node', '-e', source], environment: {} } });
  await deploy(slots, 'a', await makeRelease(dir, '1.0.0', run(good)), 'd1');
  await vi.waitFor(async () => expect(await supervisor.lastOutput(1_000)).toContain(`good ${join(dir, 'pair/a')}`), {
    timeout: 60_000,
  });
  expect(await supervisor.lastOutput(1_000)).toContain(join(dir, 'data'));
  await install(slots, 'b', await makeRelease(dir, '2.0.0', run('process.exit(7)')));
  await slots.activate('b', { tries: 1, deployment: 'd2' });
  const crashed = new Promise((resolve) => void supervisor.listen(resolve));
  expect(await slots.boot()).toEqual({ booted: 'b', trial: true });
  expect(await crashed).toMatchObject({ slot: 'b', code: 7, restartInMs: null });
  expect(await slots.running()).toBeNull();
  expect(await slots.boot()).toEqual({ booted: 'a', trial: false });
  expect(await slots.running()).toEqual({ slot: 'a', trial: false });
});

test('writing and reading back stop when they are called off, and say nothing about the slot', async () => {
  const { slots, release, pairDir } = await pair();
  const { manifest, digest, fetched } = await release('1.0.0');
  expect(await slots.prepare('b')).toEqual({ ok: true });
  const calledOff = AbortSignal.abort();
  expect(await slots.write('b', manifest, digest, fetched, calledOff)).toMatchObject({ ok: false, message: 'stopped' });
  expect(await readdir(join(pairDir, 'b'))).toEqual([]);
  expect((await viewOf(slots)).slots.b).toEqual({ state: 'unbootable' });
  // The next life goes on.
  expect(await slots.write('b', manifest, digest, fetched)).toEqual({ ok: true });
  expect(await slots.verify('b', calledOff)).toMatchObject({ ok: false, message: 'stopped' });
  expect((await viewOf(slots)).slots.b).toMatchObject({ state: 'unbootable' });
  expect(await slots.verify('b')).toEqual({ ok: true });
  expect(await slots.verify('b', calledOff)).toMatchObject({ ok: false });
  expect((await viewOf(slots)).slots.b).toMatchObject({ state: 'bootable' });
});

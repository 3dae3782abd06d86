import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { openDirectorySlots, slotFolder } from '#agent/slots/directories.ts';
import { openSupervisor } from '#agent/supervisor.ts';
import { deploy, folder, install, makeRelease, pair, REFUSED, viewOf } from './slot-pair.ts';

test('a new pair has nothing to boot', async () => {
  const { slots, reopen } = await pair();
  const empty = { active: null, trial: null, slots: { a: { state: 'unbootable' }, b: { state: 'unbootable' } } };
  expect(await viewOf(slots)).toEqual(empty);
  expect(await slots.boot()).toMatchObject({ booted: null });
  expect(await slots.running()).toBeNull();
  expect(await viewOf(await reopen())).toEqual(empty);
});

test('a release goes into the standby slot, runs on trial, and is committed', async () => {
  const { slots, supervisor, release, pairDir } = await pair();
  const first = await release('1.0.0');
  await install(slots, 'a', first);
  expect((await viewOf(slots)).slots.a).toEqual({
    state: 'bootable',
    running: { product: 'gateway', version: '1.0.0', manifest: first.digest, slot: 'a' },
    securityCounter: 3,
  });
  expect(await slots.activate('a', { tries: 2, deployment: 'd1' })).toEqual({ ok: true });
  expect((await viewOf(slots)).trial).toEqual({ slot: 'a', triesLeft: 2, deployment: 'd1' });
  expect(await slots.boot()).toEqual({ booted: 'a', trial: true });
  expect((await viewOf(slots)).trial?.triesLeft).toBe(1);
  expect(await slots.running()).toEqual({ slot: 'a', trial: true });
  expect(supervisor.application).toMatchObject({
    command: ['node', 'app.js'],
    folder: slotFolder(pairDir, 'a'),
    environment: { MODE: 'test', SLUICE_VERSION: '1.0.0', SLUICE_SLOT: 'a', SLUICE_PRODUCT: 'gateway' },
    onExit: 'report',
  });
  expect(await slots.commit()).toEqual({ ok: true });
  expect(await viewOf(slots)).toMatchObject({ active: 'a', trial: null });
  expect(await slots.running()).toEqual({ slot: 'a', trial: false });
  expect(supervisor.application?.onExit).toBe('restart');
});

test('a slot holds exactly the files of its release, and nothing of ours', async () => {
  const { slots, release, pairDir } = await pair();
  await install(slots, 'a', await release('1.0.0'));
  const names = await readdir(slotFolder(pairDir, 'a'), { recursive: true });
  expect(names.sort()).toEqual(['app.js', 'etc', 'etc/settings', 'lib', 'lib/deep', 'lib/deep/data', 'lib/main.js']);
  expect(await readFile(join(slotFolder(pairDir, 'a'), 'etc/settings'), 'utf8')).toBe('settings of 1.0.0');
  expect((await stat(join(slotFolder(pairDir, 'a'), 'etc/settings'))).mode & 0o777).toBe(0o755);
});

test('a trial that is reverted boots the old slot again', async () => {
  const { slots, release } = await pair();
  await deploy(slots, 'a', await release('1.0.0'), 'd1');
  await install(slots, 'b', await release('2.0.0'));
  await slots.activate('b', { tries: 1, deployment: 'd2' });
  expect(await slots.boot()).toEqual({ booted: 'b', trial: true });
  expect(await slots.revert()).toEqual({ ok: true });
  expect(await slots.boot()).toEqual({ booted: 'a', trial: false });
  expect(await viewOf(slots)).toMatchObject({ active: 'a', trial: null });
});

test('a trial whose tries are used up boots the old slot, without anybody deciding so', async () => {
  const { slots, reopen, release } = await pair();
  await deploy(slots, 'a', await release('1.0.0'), 'd1');
  await install(slots, 'b', await release('2.0.0'));
  await slots.activate('b', { tries: 2, deployment: 'd2' });
  const boots = [await slots.boot(), await (await reopen()).boot(), await (await reopen()).boot()];
  expect(boots).toEqual([
    { booted: 'b', trial: true },
    { booted: 'b', trial: true },
    { booted: 'a', trial: false },
  ]);
  expect((await viewOf(slots)).trial).toEqual({ slot: 'b', triesLeft: 0, deployment: 'd2' });
});

test('every step may be asked for twice', async () => {
  const { slots, release, supervisor } = await pair();
  const { manifest, digest, fetched } = await release('1.0.0');
  const twice = async (step: () => Promise<unknown>): Promise<void> => {
    expect(await step()).toEqual({ ok: true });
    expect(await step()).toEqual({ ok: true });
  };
  await twice(() => slots.prepare('b'));
  await twice(() => slots.write('b', manifest, digest, fetched));
  await twice(() => slots.verify('b'));
  await twice(() => slots.activate('b', { tries: 3, deployment: 'd1' }));
  await slots.boot();
  await twice(() => slots.activate('b', { tries: 3, deployment: 'd1' }));
  expect((await viewOf(slots)).trial?.triesLeft).toBe(2);
  await twice(() => slots.commit());
  await twice(() => slots.revert());
  expect(await viewOf(slots)).toMatchObject({ active: 'b', trial: null });
  await slots.stop();
  await slots.stop();
  expect(supervisor.application).toBeNull();
});

test('the active slot, and the one that runs, are never prepared or written', async () => {
  const { slots, release } = await pair();
  const second = await release('2.0.0');
  await deploy(slots, 'a', await release('1.0.0'), 'd1');
  expect(await slots.prepare('a')).toMatchObject(REFUSED);
  expect(await slots.write('a', second.manifest, second.digest, second.fetched)).toMatchObject(REFUSED);
  expect(await slots.activate('a', { tries: 1, deployment: 'd2' })).toMatchObject(REFUSED);
  await install(slots, 'b', second);
  await slots.activate('b', { tries: 1, deployment: 'd2' });
  await slots.boot();
  await slots.revert();
  expect(await slots.prepare('b')).toMatchObject({ ...REFUSED, message: 'slot b is running' });
});

test('only a slot that was read back can be activated', async () => {
  const { slots, release } = await pair();
  const { manifest, digest, fetched } = await release('1.0.0');
  expect(await slots.activate('a', { tries: 1, deployment: 'd' })).toMatchObject(REFUSED);
  await slots.prepare('a');
  expect(await slots.verify('a')).toMatchObject({ ok: false, code: 'WRITE_VERIFY' });
  await slots.write('a', manifest, digest, fetched);
  expect(await slots.activate('a', { tries: 1, deployment: 'd' })).toMatchObject(REFUSED);
  await slots.verify('a');
  expect(await slots.activate('a', { tries: 1, deployment: 'd' })).toEqual({ ok: true });
  expect(await slots.activate('a', { tries: 1, deployment: 'other' })).toMatchObject(REFUSED);
});

test('a slot that holds another release must be prepared before it is written', async () => {
  const { slots, release } = await pair();
  await install(slots, 'a', await release('1.0.0'));
  const { manifest, digest, fetched } = await release('2.0.0');
  expect(await slots.write('a', manifest, digest, fetched)).toMatchObject(REFUSED);
});

test('preparing forgets an abandoned trial of that slot first', async () => {
  const { slots, release, reopen } = await pair();
  await deploy(slots, 'a', await release('1.0.0'), 'd1');
  await install(slots, 'b', await release('2.0.0'));
  await slots.activate('b', { tries: 2, deployment: 'd2' });
  expect(await slots.prepare('b')).toEqual({ ok: true });
  const view = await viewOf(await reopen());
  expect(view).toMatchObject({ active: 'a', trial: null, slots: { b: { state: 'unbootable' } } });
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
    timeout: 10_000,
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

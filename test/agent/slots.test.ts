import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, open, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { expect, onTestFinished, test, vi } from 'vitest';
import { openDirectorySlots, slotFolder } from '#agent/slots/directories.ts';
import { type FetchedArtifact, other, type SlotName, type Slots } from '#agent/slots/slots.ts';
import { type Application, openSupervisor, type Supervisor } from '#agent/supervisor.ts';
import { Manifest } from '#shared/manifest.ts';
import { writeTree } from '#shared/tree.ts';

/** A supervisor whose applications run for ever and cost nothing. */
const fakeSupervisor = (): Supervisor & { application: Application | null; starts: number } => ({
  application: null,
  starts: 0,
  async start(application) {
    this.application = application;
    this.starts += 1;
    return { ok: true };
  },
  running() {
    return this.application === null ? null : { slot: this.application.slot, pid: 2, since: 0 };
  },
  keepRunning() {
    if (this.application !== null) this.application = { ...this.application, onExit: 'restart' };
  },
  listen: () => () => undefined,
  lastOutput: async () => '',
  async stop() {
    this.application = null;
  },
});

const folder = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-slots-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
};

const sha256 = (bytes: Uint8Array | string): string => createHash('sha256').update(bytes).digest('hex');

type Release = { manifest: Manifest; digest: string; fetched: FetchedArtifact[] };

/** A release of a tree and a file, as it lies on the device after fetching. */
const makeRelease = async (dir: string, version: string, more: object = {}): Promise<Release> => {
  const source = join(dir, `source-${version}`);
  await mkdir(join(source, 'lib/deep'), { recursive: true });
  await writeFile(join(source, 'app.js'), `console.log(${JSON.stringify(version)})`, { mode: 0o755 });
  await writeFile(join(source, 'lib/deep/data'), Buffer.alloc(50_000, version));
  await symlink('../app.js', join(source, 'lib/main.js'));
  const tree = join(dir, `tree-${version}`);
  const written = await writeTree(source, 'gzip', tree);
  if (!written.ok) throw new Error(written.detail);
  const file = join(dir, `file-${version}`);
  await writeFile(file, `settings of ${version}`);
  const part = async (name: string, path: string, install: object): Promise<object> => {
    const bytes = await readFile(path);
    return { name, bytes: bytes.length, sha256: sha256(bytes), install };
  };
  const manifest = Manifest.parse({
    format: 1,
    product: 'gateway',
    version,
    compatible: 'gw',
    securityCounter: 3,
    artifacts: [
      await part('tree', tree, { kind: 'tree', compression: 'gzip' }),
      await part('file', file, { kind: 'file', path: 'etc/settings', executable: true }),
    ],
    run: { command: ['node', 'app.js'], environment: { MODE: 'test' } },
    ...more,
  });
  const fetched = [
    { name: 'tree', file: tree },
    { name: 'file', file },
  ];
  return { manifest, digest: sha256(JSON.stringify(manifest)), fetched };
};

const pair = async (more: { slotBytesMax?: number } = {}) => {
  const dir = await folder();
  const supervisor = fakeSupervisor();
  const options = { dir: join(dir, 'pair'), supervisor, ...more };
  const slots = await openDirectorySlots(options);
  const reopen = (crashPoint?: (name: string) => void): Promise<Slots> =>
    openDirectorySlots({ ...options, ...(crashPoint === undefined ? {} : { crashPoint }) });
  const release = (version: string): Promise<Release> => makeRelease(dir, version);
  return { dir, pairDir: options.dir, supervisor, slots, reopen, release };
};

const viewOf = async (slots: Slots) => {
  const inspected = await slots.inspect();
  if (!inspected.ok) throw new Error(inspected.message);
  return inspected.view;
};

const install = async (slots: Slots, slot: SlotName, { manifest, digest, fetched }: Release): Promise<void> => {
  expect(await slots.prepare(slot)).toEqual({ ok: true });
  expect(await slots.write(slot, manifest, digest, fetched)).toEqual({ ok: true });
  expect(await slots.verify(slot)).toEqual({ ok: true });
};

const deploy = async (slots: Slots, slot: SlotName, release: Release, deployment: string): Promise<void> => {
  await install(slots, slot, release);
  expect(await slots.activate(slot, { tries: 2, deployment })).toEqual({ ok: true });
  expect(await slots.boot()).toEqual({ booted: slot, trial: true });
  expect(await slots.commit()).toEqual({ ok: true });
};

const flipByte = async (file: string, at: number): Promise<void> => {
  const handle = await open(file, 'r+');
  const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, at);
  buffer[0]! ^= 1;
  await handle.write(buffer, 0, 1, at);
  await handle.close();
};

const COPIES = ['boot.0.json', 'boot.1.json'];
const newestSelector = async (dir: string): Promise<string> => {
  const texts = await Promise.all(COPIES.map((copy) => readFile(join(dir, copy), 'utf8').catch(() => '')));
  const generations = texts.map((text) => Number(/"generation":(\d+)/.exec(text)?.[1] ?? 0));
  return join(dir, COPIES[generations[0]! > generations[1]! ? 0 : 1]!);
};

const REFUSED = { ok: false, code: 'PRECONDITION' };

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

const DAMAGE: Record<string, (slot: string) => Promise<void>> = {
  'a flipped bit': (slot) => flipByte(join(slot, 'lib/deep/data'), 40_000),
  'a flipped bit in a file that was linked': (slot) => flipByte(join(slot, 'etc/settings'), 3),
  'a missing file': (slot) => rm(join(slot, 'app.js')),
  'an extra file': (slot) => writeFile(join(slot, 'lib/extra'), ''),
  'a truncated file': (slot) => writeFile(join(slot, 'lib/deep/data'), Buffer.alloc(10)),
  'a file that is no longer executable': (slot) => chmod(join(slot, 'app.js'), 0o644),
  'a link to elsewhere': async (slot) => {
    await rm(join(slot, 'lib/main.js'));
    await symlink('deep/data', join(slot, 'lib/main.js'));
  },
  'a link instead of a file': async (slot) => {
    await rm(join(slot, 'app.js'));
    await symlink('lib/deep/data', join(slot, 'app.js'));
  },
  'a damaged list of files': (slot) => flipByte(`${slot}.files`, 100),
};
for (const [what, damage] of Object.entries(DAMAGE)) {
  test(`${what} in the slot is found when it is read back, and it can not be activated`, async () => {
    const { slots, release, pairDir } = await pair();
    await deploy(slots, 'a', await release('1.0.0'), 'd1');
    const { manifest, digest, fetched } = await release('2.0.0');
    await slots.prepare('b');
    await slots.write('b', manifest, digest, fetched);
    await damage(slotFolder(pairDir, 'b'));
    expect(await slots.verify('b')).toMatchObject({ ok: false, code: 'WRITE_VERIFY' });
    expect(await slots.activate('b', { tries: 1, deployment: 'd2' })).toMatchObject({ ok: false });
    expect(await slots.boot()).toEqual({ booted: 'a', trial: false });
  });
}

test('a slot that was bootable and is damaged is not bootable any more once that is seen', async () => {
  const { slots, release, pairDir } = await pair();
  await install(slots, 'b', await release('1.0.0'));
  await flipByte(join(slotFolder(pairDir, 'b'), 'app.js'), 0);
  await slots.verify('b');
  expect((await viewOf(slots)).slots.b).toEqual({ state: 'unbootable' });
});

test('an artifact that changed on the disk after it was fetched is refused', async () => {
  const { slots, release } = await pair();
  const { manifest, digest, fetched } = await release('1.0.0');
  await slots.prepare('a');
  await flipByte(fetched[0]!.file, 4); // the time in the gzip header: it still unpacks
  expect(await slots.write('a', manifest, digest, fetched)).toMatchObject({ ok: false, code: 'TARGET_HASH' });
  await writeFile(fetched[1]!.file, 'longer than it was when it was fetched');
  expect(await slots.write('a', manifest, digest, fetched)).toMatchObject({ ok: false, code: 'TARGET_HASH' });
  await rm(fetched[1]!.file);
  expect(await slots.write('a', manifest, digest, fetched)).toMatchObject(REFUSED);
});

test('a release that is bigger than the slot is refused before any write', async () => {
  const { slots, release, pairDir } = await pair({ slotBytesMax: 200 });
  const { manifest, digest, fetched } = await release('1.0.0');
  await slots.prepare('a');
  const before = await readdir(pairDir, { recursive: true });
  expect(await slots.write('a', manifest, digest, fetched)).toMatchObject({ ok: false, code: 'NO_SPACE' });
  expect(await readdir(pairDir, { recursive: true })).toEqual(before);
});

test('a compressed tree that grows bigger than the slot is endless data', async () => {
  const { slots, release } = await pair({ slotBytesMax: 40_000 });
  const { manifest, digest, fetched } = await release('1.0.0');
  await slots.prepare('a');
  expect(await slots.write('a', manifest, digest, fetched)).toMatchObject({ ok: false, code: 'ENDLESS_DATA' });
  expect((await viewOf(slots)).slots.a).toEqual({ state: 'unbootable' });
});

const TEARS: Record<string, (file: string) => Promise<void>> = {
  'torn off': async (file) => writeFile(file, (await readFile(file)).subarray(0, 40)),
  emptied: (file) => writeFile(file, ''),
  'with a flipped bit': (file) => flipByte(file, 20),
  'of zeros': async (file) => writeFile(file, Buffer.alloc((await stat(file)).size)),
};
for (const [how, tear] of Object.entries(TEARS)) {
  test(`the newest copy of the boot selector ${how}: the previous copy wins`, async () => {
    const { slots, release, pairDir, reopen } = await pair();
    await deploy(slots, 'a', await release('1.0.0'), 'd1');
    await install(slots, 'b', await release('2.0.0'));
    await slots.activate('b', { tries: 2, deployment: 'd2' });
    await tear(await newestSelector(pairDir));
    const again = await reopen();
    expect(await viewOf(again)).toMatchObject({ active: 'a', trial: null });
    expect(await again.activate('b', { tries: 2, deployment: 'd2' })).toEqual({ ok: true });
    expect((await viewOf(await reopen())).trial).toEqual({ slot: 'b', triesLeft: 2, deployment: 'd2' });
  });
}

test('with both copies of the boot selector damaged nothing is written any more', async () => {
  const { slots, release, pairDir, reopen } = await pair();
  await deploy(slots, 'a', await release('1.0.0'), 'd1');
  const { manifest, digest, fetched } = await release('2.0.0');
  await slots.prepare('b');
  for (const copy of COPIES) await flipByte(join(pairDir, copy), 30);
  const before = await readdir(pairDir);
  const again = await reopen();
  const answers = [
    await again.inspect(),
    await again.prepare('b'),
    await again.write('b', manifest, digest, fetched),
    await again.verify('b'),
    await again.activate('b', { tries: 1, deployment: 'd2' }),
    await again.commit(),
    await again.revert(),
  ];
  for (const answer of answers) expect(answer).toMatchObject(REFUSED);
  expect(await readdir(pairDir)).toEqual(before);
  // One slot is bootable, so there is no doubt what to run.
  expect(await again.boot()).toEqual({ booted: 'a', trial: false });
});

test('a pair that has lost its boot selector altogether is not taken for a new one', async () => {
  const { slots, release, pairDir, reopen } = await pair();
  await deploy(slots, 'a', await release('1.0.0'), 'd1');
  await install(slots, 'b', await release('2.0.0'));
  for (const copy of COPIES) await rm(join(pairDir, copy), { force: true });
  const again = await reopen();
  expect(await again.inspect()).toMatchObject(REFUSED);
  // Two slots are bootable, and nobody knows which was committed.
  expect(await again.boot()).toMatchObject({ booted: null });
});

/** What an agent does from whatever it finds until version 2.0.0 is committed in slot b. */
const goOn = async (slots: Slots, { manifest, digest, fetched }: Release): Promise<void> => {
  const view = await viewOf(slots);
  if (view.active === 'b') return;
  if (view.trial === null) {
    await slots.prepare('b');
    await slots.write('b', manifest, digest, fetched);
    await slots.verify('b');
    await slots.activate('b', { tries: 3, deployment: 'd2' });
  }
  expect(await slots.boot()).toEqual({ booted: 'b', trial: true });
  await slots.commit();
};

const CUTS = [
  'slots.prepare.unbootable',
  'slots.prepare.emptied',
  'slots.write.content',
  'slots.write.recorded',
  'slots.verify.marked',
  'slots.activate.written',
  'slots.boot.counted',
  'slots.commit.written',
];
for (const at of CUTS) {
  test(`power lost at ${at}: a verified slot boots, and going on ends well`, async () => {
    const { slots, release, reopen, supervisor } = await pair();
    await deploy(slots, 'a', await release('1.0.0'), 'd1');
    const second = await release('2.0.0');
    const cut = await reopen((name) => {
      if (name === at) throw new Error('power lost');
    });
    await expect(goOn(cut, second)).rejects.toThrow('power lost');
    supervisor.application = null;
    const again = await reopen();
    const view = await viewOf(again);
    expect(view.slots[view.trial?.slot ?? view.active!].state).toBe('bootable');
    await goOn(again, second);
    expect(await viewOf(again)).toMatchObject({ active: 'b', trial: null });
  });
}

test('an agent killed in the middle of writing leaves an unbootable standby, and the old version', async () => {
  const { slots, release, pairDir, reopen } = await pair();
  await deploy(slots, 'a', await release('1.0.0'), 'd1');
  const { manifest, digest, fetched } = await release('2.0.0');
  const source = `
    const { openDirectorySlots } = await import('#agent/slots/directories.ts');
    const [dir, manifest, digest, fetched] = JSON.parse(process.argv[1]);
    const slots = await openDirectorySlots({ dir, supervisor: { running: () => null } });
    await slots.prepare('b');
    await slots.write('b', manifest, digest, fetched);`;
  const input = JSON.stringify([pairDir, manifest, digest, fetched]);
  const agent = spawn(process.execPath, ['--input-type=module', '-e', source, input], {
    stdio: 'inherit',
    env: { ...process.env, SLUICE_AGENT_KILL_AT: 'slots.write.content' },
  });
  await once(agent, 'exit');
  expect(agent.signalCode).toBe('SIGKILL');
  const again = await reopen();
  expect((await viewOf(again)).slots.b).toEqual({ state: 'unbootable' });
  expect(await again.boot()).toEqual({ booted: 'a', trial: false });
  expect(await again.write('b', manifest, digest, fetched)).toEqual({ ok: true });
  expect(await again.verify('b')).toEqual({ ok: true });
});

const Act = fc.constantFrom(
  ...(['prepare', 'write', 'verify', 'activate', 'boot', 'commit', 'revert', 'deploy', 'restart', 'tear'] as const),
);
const DEPLOY = ['revert', 'boot', 'prepare', 'write', 'verify', 'activate', 'boot', 'commit'] as const;

test('whatever is asked, cut or torn: once something was committed, something verified always boots', async () => {
  const dir = await folder();
  const releases = [await makeRelease(dir, '1.0.0'), await makeRelease(dir, '2.0.0'), await makeRelease(dir, '3.0.0')];
  const life = fc.array(fc.record({ act: Act, release: fc.nat(2), cutAfter: fc.option(fc.nat(3), { freq: 4 }) }), {
    maxLength: 14,
  });
  const live = async (pairDir: string, steps: typeof life extends fc.Arbitrary<infer T> ? T : never): Promise<void> => {
    const supervisor = fakeSupervisor();
    let stepsLeft = Infinity;
    let deployments = 0;
    const crashPoint = (): void => {
      stepsLeft -= 1;
      if (stepsLeft < 0) throw new Error('power lost');
    };
    const start = (): Promise<Slots> => {
      supervisor.application = null;
      return openDirectorySlots({ dir: pairDir, supervisor, crashPoint });
    };
    let slots = await start();
    await deploy(slots, 'a', releases[0]!, 'd0');

    const take = async (
      act: Exclude<typeof Act extends fc.Arbitrary<infer T> ? T : never, 'deploy'>,
      release: Release,
    ) => {
      const standby = other((await viewOf(slots)).active!);
      if (act === 'write') await slots.write(standby, release.manifest, release.digest, release.fetched);
      else if (act === 'prepare' || act === 'verify') await slots[act](standby);
      else if (act === 'activate') await slots.activate(standby, { tries: 2, deployment: `d${(deployments += 1)}` });
      else if (act === 'boot' || act === 'commit' || act === 'revert') await slots[act]();
      else if (act === 'restart') slots = await start();
      else {
        const texts = await Promise.all(COPIES.map((copy) => readFile(join(pairDir, copy), 'utf8')));
        const whole = texts.every((text) => sha256(text.split('\n')[0]!) === text.split('\n')[1]);
        // Only one copy at a time: a torn one must have been replaced by a write before the other may be.
        if (whole) await flipByte(await newestSelector(pairDir), 20);
      }
    };

    for (const { act, release, cutAfter } of steps) {
      stepsLeft = cutAfter ?? Infinity;
      try {
        for (const part of act === 'deploy' ? DEPLOY : [act]) await take(part, releases[release]!);
      } catch (error) {
        if (!String(error).includes('power lost')) throw error;
        slots = await start();
      }
      stepsLeft = Infinity;
      const { active, trial, slots: contents } = await viewOf(slots);
      expect(contents[active!].state).toBe('bootable');
      expect(trial === null ? 'bootable' : contents[trial.slot].state).toBe('bootable');
    }
    slots = await start();
    expect(await slots.boot()).not.toMatchObject({ booted: null });
  };
  await fc.assert(
    fc.asyncProperty(life, async (steps) => {
      const pairDir = await mkdtemp(join(tmpdir(), 'sluice-life-'));
      try {
        await live(pairDir, steps);
      } finally {
        await rm(pairDir, { recursive: true, force: true });
      }
    }),
    { numRuns: 25 },
  );
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

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { expect, onTestFinished, test } from 'vitest';
import { freeOn, RESERVE_BYTES } from '#agent/disk/room.ts';
import { other, type Slots } from '#agent/domain/slots.ts';
import { openDirectorySlots, slotFolder } from '#agent/slots/directories.ts';
import { Sha256 } from '#shared/ids.ts';
import { Manifest } from '#shared/manifest.ts';
import { writeTree } from '#shared/tree.ts';
import { ALL_SWEEPS } from '#test/sweep.ts';
import { canMount, smallDisk } from '../small-disk.ts';
import {
  COPIES,
  deploy,
  fakeSupervisor,
  flipByte,
  folder,
  install,
  makeRelease,
  newestSelector,
  pair,
  REFUSED,
  type Release,
  sha256,
  viewOf,
} from './slot-pair.ts';

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
  test(`15: a bit flipped in the slot, after the write: read-back fails, no activation (${what})`, async () => {
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

test('files of the same content keep modes of their own', async () => {
  const { dir, pairDir, slots } = await pair();
  const file = join(dir, 'settings');
  await writeFile(file, 'the same');
  const names = ['open', 'also-open', 'private', 'tool'];
  const installs = [{}, {}, { mode: '0600' }, { executable: true }];
  const artifacts = installs.map((more, index) => ({
    name: names[index],
    bytes: 8,
    sha256: sha256('the same'),
    install: { kind: 'file', path: names[index], ...more },
  }));
  const manifest = Manifest.parse({
    format: 1,
    product: 'gateway',
    version: '1.0.0',
    compatible: 'gw',
    securityCounter: 0,
    artifacts,
  });
  const fetched = names.map((name) => ({ name, file }));
  await install(slots, 'a', { manifest, digest: sha256(JSON.stringify(manifest)), fetched });
  const modes = await Promise.all(names.map(async (name) => (await stat(join(pairDir, 'a', name))).mode & 0o7777));
  expect(modes).toEqual([0o644, 0o644, 0o600, 0o755]);
});

test('a compressed tree that grows bigger than the slot is endless data', async () => {
  const { slots, release } = await pair({ slotBytesMax: 40_000 });
  const { manifest, digest, fetched } = await release('1.0.0');
  await slots.prepare('a');
  expect(await slots.write('a', manifest, digest, fetched)).toMatchObject({ ok: false, code: 'ENDLESS_DATA' });
  expect((await viewOf(slots)).slots.a).toEqual({ state: 'unbootable' });
});

test('what was written of a slot that cannot be written to its end is gone at once', async () => {
  const { slots, release, pairDir } = await pair({ slotBytesMax: 40_000 });
  const { manifest, digest, fetched } = await release('1.0.0');
  await slots.prepare('a');
  expect(await slots.write('a', manifest, digest, fetched)).toMatchObject({ ok: false, code: 'ENDLESS_DATA' });
  expect((await readdir(pairDir, { recursive: true })).filter((name) => name.startsWith('a'))).toEqual(['a']);
});

test.skipIf(!canMount())(
  'a compressed tree that is larger than the disk is refused in words that are true, leaves the reserve free, and nothing of itself (on a small file system, which needs root)',
  async () => {
    const dir = await smallDisk(24 * 1024 * 1024);
    const slots = await openDirectorySlots({ dir: join(dir, 'pair'), supervisor: fakeSupervisor() });
    const source = join(await folder(), 'source');
    await mkdir(source);
    await writeFile(join(source, 'zeros'), '');
    await truncate(join(source, 'zeros'), 60 * 1024 * 1024);
    const file = join(dir, 'bomb');
    expect(await writeTree(source, 'zstd', file)).toMatchObject({ ok: true });
    const bomb = await readFile(file);
    const freeBefore = await freeOn(dir);
    let least = freeBefore;
    const looking = setInterval(() => void freeOn(dir).then((free) => (least = Math.min(least, free))), 1);
    onTestFinished(() => clearInterval(looking));
    const { manifest } = await (await pair()).release('1.0.0');
    const install = { kind: 'tree' as const, compression: 'zstd' as const };
    const artifacts = [
      { name: manifest.artifacts[0]!.name, bytes: bomb.length, sha256: Sha256.parse(sha256(bomb)), install },
    ];
    expect(await slots.prepare('a')).toEqual({ ok: true });
    const fetched = [{ name: 'tree', file }];
    expect(await slots.write('a', { ...manifest, artifacts }, 'f'.repeat(64), fetched)).toMatchObject({
      ok: false,
      code: 'NO_SPACE',
      message: expect.stringMatching(/^there is no room for zeros: \d+ bytes are free, of which 4194304 stay free/),
    });
    expect(least).toBeGreaterThanOrEqual(RESERVE_BYTES);
    expect(await readdir(join(dir, 'pair/a'))).toEqual([]);
    expect(await freeOn(dir)).toBeGreaterThanOrEqual(freeBefore - 8_192);
  },
);

test.skipIf(!canMount())(
  'a trial whose try cannot be counted is not begun, and that it was the disk is said (on a file system that can only be read, which needs root)',
  async () => {
    const dir = await smallDisk(24 * 1024 * 1024);
    const supervisor = fakeSupervisor();
    const slots = await openDirectorySlots({ dir: join(dir, 'pair'), supervisor });
    const { release } = await pair();
    await deploy(slots, 'a', await release('1.0.0'), 'd1');
    await install(slots, 'b', await release('2.0.0'));
    expect(await slots.activate('b', { tries: 2, deployment: 'd2' })).toEqual({ ok: true });
    execFileSync('mount', ['-o', 'remount,ro', dir]);
    const uncounted = { ok: false, code: 'WRITE_FAILED', message: 'the boot selector cannot be written: EROFS' };
    const again = await openDirectorySlots({ dir: join(dir, 'pair'), supervisor });
    for (const opened of [slots, again]) expect(await opened.boot()).toEqual({ booted: 'a', trial: false, uncounted });
    execFileSync('mount', ['-o', 'remount,rw', dir]);
    expect(await again.boot()).toEqual({ booted: 'b', trial: true });
  },
);

const TEARS: Record<string, (file: string) => Promise<void>> = {
  'torn off': async (file) => writeFile(file, (await readFile(file)).subarray(0, 40)),
  emptied: (file) => writeFile(file, ''),
  'with a flipped bit': (file) => flipByte(file, 20),
  'of zeros': async (file) => writeFile(file, Buffer.alloc((await stat(file)).size)),
};
for (const [how, tear] of Object.entries(TEARS)) {
  test(`10: torn write of the newest environment copy, activation: the previous copy wins (${how})`, async () => {
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

test('with both copies of the boot selector damaged the only bootable slot runs: there is no doubt which', async () => {
  const { slots, release, pairDir, reopen } = await pair();
  await deploy(slots, 'a', await release('1.0.0'), 'd1');
  await slots.prepare('b');
  for (const copy of COPIES) await flipByte(join(pairDir, copy), 30);
  expect(await (await reopen()).boot()).toEqual({ booted: 'a', trial: false });
});

test('a pair that has lost its boot selector altogether is not taken for a new one', async () => {
  const { slots, release, pairDir, reopen } = await pair();
  await deploy(slots, 'a', await release('1.0.0'), 'd1');
  await install(slots, 'b', await release('2.0.0'));
  for (const copy of COPIES) await rm(join(pairDir, copy), { force: true });
  const again = await reopen();
  expect(await again.inspect()).toMatchObject(REFUSED);
  // Two slots are bootable, and no one knows which was committed.
  expect(await again.boot()).toMatchObject({ booted: null });
});

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
    { numRuns: ALL_SWEEPS ? 25 : 5 },
  );
});

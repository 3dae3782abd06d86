import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { other, type SlotName, type Slots } from '#agent/domain/slots.ts';
import { checkDevice, isMountedAt } from '#agent/slots/image-device.ts';
import { slotOfCommandLine } from '#agent/slots/running-slot.ts';
import { type ImagePairRig, imagePair, SLOT_BYTES } from './image-pair.ts';
import { snapshot } from './selectors/contract.ts';
import { grubRig, OWN_ACCESS, run } from './selectors/rigs.ts';
import { flipByte, install, REFUSED, type Release, viewOf } from './slot-pair.ts';

const grubPair = async () => imagePair(await grubRig(OWN_ACCESS));
const TRIAL = { tries: 2, deployment: 'd1' };

/** The whole way, with the reboots between. */
const deploy = async (pair: ImagePairRig, slot: SlotName, release: Release): Promise<Slots> => {
  const slots = await pair.open();
  await install(slots, slot, release);
  expect(await slots.activate(slot, TRIAL)).toEqual({ ok: true });
  expect(await slots.boot()).toMatchObject({ booted: null });
  expect(await pair.powerOn()).toBe(slot);
  const next = await pair.open();
  expect(await next.boot()).toEqual({ booted: slot, trial: true });
  expect(await next.commit()).toEqual({ ok: true });
  return next;
};

test('a device as it left the factory runs a slot of which nothing is known', async () => {
  const slots = await (await grubPair()).open();
  const unknown = { state: 'unbootable' };
  expect(await viewOf(slots)).toEqual({ active: 'a', trial: null, slots: { a: unknown, b: unknown } });
  expect(await slots.running()).toEqual({ slot: 'a', trial: false });
  expect(await slots.boot()).toEqual({ booted: 'a', trial: false });
  expect(await slots.seeds!()).toEqual([]);
});

test('an image goes into the standby slot, the device reboots into it on trial, and it is committed', async () => {
  const pair = await grubPair();
  const release = await pair.release('1.1.0');
  const slots = await deploy(pair, 'b', release);
  expect(await pair.rebootsAsked()).toBe(1);
  const running = { product: 'gateway', version: '1.1.0', manifest: release.digest, slot: 'b' };
  expect(await viewOf(slots)).toEqual({
    active: 'b',
    trial: null,
    slots: { a: { state: 'unbootable' }, b: { state: 'bootable', running, securityCounter: 3 } },
  });
  expect(await slots.running()).toEqual({ slot: 'b', trial: false });
  const image = await readFile(release.fetched[0]!.file);
  const stored = await readFile(pair.files.b);
  expect(stored.subarray(0, image.length).equals(image)).toBe(true);
  expect(stored.length).toBe(SLOT_BYTES);
  expect(await slots.seeds!()).toEqual([{ file: pair.files.b, artifact: release.manifest.artifacts[0] }]);
});

test('19: image bigger than the slot, start: rejected before any write (and whatever else is in vain)', async () => {
  const pair = await grubPair();
  const slots = await pair.open();
  await install(slots, 'b', await pair.release('1.1.0'));
  const before = await snapshot(pair.dir);
  const fits = (release: Release) => slots.prepare('b', release.manifest);
  const large = await pair.release('2.0.0', {}, SLOT_BYTES + 1);
  const foreign = await pair.release('2.0.1', { compatible: 'another' });
  const tree = { kind: 'tree', compression: 'none' };
  const app = { name: 'app', bytes: 1, sha256: 'a'.repeat(64), install: tree };
  const noImage = await pair.release('2.0.2', { artifacts: [app] });
  const empty = await pair.release('2.0.3', {}, 0);
  for (const { fetched } of [large, foreign, noImage, empty]) await rm(fetched[0]!.file);
  expect(await fits(large)).toMatchObject({ ok: false, code: 'NO_SPACE' });
  expect(await fits(foreign)).toMatchObject({ ok: false, code: 'INCOMPATIBLE_HARDWARE' });
  expect(await fits(noImage)).toMatchObject(REFUSED);
  expect(await fits(empty)).toMatchObject({ ...REFUSED, message: expect.stringContaining('no bytes') });
  expect(await slots.place!('b', large.manifest, large.manifest.artifacts[0]!)).toMatchObject({ code: 'NO_SPACE' });
  expect(await slots.prepare('a')).toMatchObject({ ...REFUSED, message: 'slot a is the active one' });
  expect(await snapshot(pair.dir)).toEqual(before);
});

/** Loop devices are for root, where they are at all. */
const attach = async (file: string): Promise<string | undefined> => {
  try {
    const device = run('losetup', ['-f', '--show', file]).trim();
    onTestFinished(() => void run('losetup', ['-d', device]));
    return device;
  } catch {
    return undefined;
  }
};

test('a loop device is a slot like a partition, until it or its file is mounted', async (context) => {
  const pair = await grubPair();
  const device = await attach(pair.files.b);
  context.skip(device === undefined, 'no loop device can be made here');
  pair.config.b = device!;
  const slots = await pair.open();
  const release = await pair.release('1.1.0');
  const large = await pair.release('2.0.0', {}, SLOT_BYTES + 1);
  expect(await slots.prepare('b', large.manifest)).toMatchObject({ ok: false, code: 'NO_SPACE' });
  await install(slots, 'b', release);
  expect(await slots.activate('b', TRIAL)).toEqual({ ok: true });
  expect((await readFile(pair.files.b)).includes('image 1.1.0')).toBe(true);
  await slots.revert();

  run('mkfs.ext2', ['-q', device!]);
  const point = join(pair.dir, 'mounted');
  await mkdir(point);
  run('mount', [device!, point]);
  onTestFinished(() => void run('umount', [point]));
  const busy = { ...REFUSED, message: expect.stringContaining(`mounted at ${point}`) };
  expect(await checkDevice(device!)).toMatchObject(busy);
  expect(await checkDevice(pair.files.b)).toMatchObject(busy);
  expect(await slots.prepare('b', release.manifest)).toMatchObject(busy);
  expect(await isMountedAt(device!, point)).toBe(true);
  expect(await isMountedAt(pair.files.a, point)).toBe(false);
});

test('a slot that is not there, or is a folder, is refused', async () => {
  const { dir, files } = await grubPair();
  expect(await checkDevice(`${files.b}-not`)).toMatchObject(REFUSED);
  expect(await checkDevice(dir)).toMatchObject(REFUSED);
});

test('without any evidence of which slot runs nothing is written', async () => {
  const pair = await grubPair();
  await writeFile(`${pair.dir}/cmdline`, 'quiet');
  const slots = await pair.open();
  expect(await slots.prepare('b')).toMatchObject(REFUSED);
  expect(await slots.running()).toBeNull();
  const values = ['sluice.slot=a', 'sluice.slot=b x sluice.slot=A', 'sluice.slot=c', 'xsluice.slot=a'];
  expect(values.map((line) => slotOfCommandLine(line, 'sluice.slot'))).toEqual(['a', 'a', null, null]);
});

test('after a restart a record is not believed without reading the slot', async () => {
  const pair = await grubPair();
  await install(await pair.open(), 'b', await pair.release('1.1.0'));
  await flipByte(pair.files.b, 42);
  expect(await (await pair.open()).activate('b', TRIAL)).toMatchObject({ ok: false, code: 'WRITE_VERIFY' });
  expect(await pair.powerOn()).toBe('a');
});

test('what lies behind the image in its slot does not matter', async () => {
  const pair = await grubPair();
  const slots = await pair.open();
  await install(slots, 'b', await pair.release('1.1.0'));
  await flipByte(pair.files.b, 2_000_000);
  expect(await slots.verify('b')).toEqual({ ok: true });
});

test('an image that was assembled in the slot itself is flushed, read back and recorded', async () => {
  const pair = await grubPair();
  const { manifest, digest, fetched } = await pair.release('1.1.0');
  const slots = await pair.open();
  const [artifact] = manifest.artifacts;
  await slots.prepare('b', manifest);
  const placed = await slots.place!('b', manifest, artifact!);
  if (placed?.ok !== true) throw new Error('not placed');
  expect(placed.file).toBe(pair.files.b);
  await writeFile(placed.file, await readFile(fetched[0]!.file), { flag: 'r+' });
  expect(await slots.write('b', manifest, digest, [{ name: 'rootfs', file: placed.file }])).toEqual({ ok: true });
  expect(await slots.verify('b')).toEqual({ ok: true });
  // Now it holds something: not to be written over without `prepare`.
  expect(await slots.place!('b', manifest, artifact!)).toMatchObject(REFUSED);
});

test('a boot loader that does not boot the trial is asked a few times, and then the trial is over', async () => {
  const pair = await grubPair();
  const slots = await pair.open();
  await install(slots, 'b', await pair.release('1.1.0'));
  await slots.activate('b', TRIAL);
  const boots: unknown[] = [];
  for (let turn = 0; turn < 5; turn += 1) {
    boots.push((await (await pair.open()).boot()).booted);
    // It reads another environment, say.
    await writeFile(pair.config.bootId, `boot ${turn}`);
  }
  expect(boots).toEqual([null, null, null, 'a', 'a']);
  expect(await pair.rebootsAsked()).toBe(3);
});

test('a slot that the boot loader fell back to is the one that counts', async () => {
  const pair = await grubPair();
  const release = await pair.release('1.1.0');
  await deploy(pair, 'b', release);
  // The kernel of slot b cannot be loaded any more, say.
  await writeFile(`${pair.dir}/cmdline`, 'sluice.slot=a');
  await writeFile(pair.config.bootId, 'another');
  const slots = await pair.open();
  expect(await viewOf(slots)).toMatchObject({ active: 'a', trial: null });
  expect(await slots.boot()).toEqual({ booted: 'a', trial: false });
  expect(await pair.rebootsAsked()).toBe(1);
  // The next release goes over the slot that does not boot.
  await install(slots, 'b', await pair.release('1.2.0'));
  expect(await slots.activate('b', TRIAL)).toEqual({ ok: true });
});

test('a reboot that fails is said so, and one that is called off ends at once', async () => {
  const pair = await grubPair();
  const slots = await pair.open();
  await install(slots, 'b', await pair.release('1.1.0'));
  await slots.activate('b', TRIAL);
  pair.config.rebootMs = 60_000;
  expect(await slots.boot(AbortSignal.abort())).toMatchObject({ booted: null });
  pair.config.reboot = ['sh', '-c', 'echo no permission; exit 4'];
  expect(await slots.boot()).toEqual({
    booted: null,
    why: 'the reboot failed: sh ended with exit code 4: no permission',
  });
});

test('the slot before it stays the last resort only as long as it is whole', async () => {
  const pair = await grubPair();
  await deploy(pair, 'b', await pair.release('1.1.0'));
  const slots = await pair.open();
  expect(await slots.prepare(other('b'))).toEqual({ ok: true });
  expect(await readFile(`${pair.dir}/grubenv`, 'latin1')).toContain('ORDER=B\n');
});

import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { checkDevice, isMountedAt } from '#agent/slots/image-device.ts';
import { slotOfCommandLine } from '#agent/slots/running-slot.ts';
import { other, type SlotName, type Slots } from '#agent/slots/slots.ts';
import { type ImagePairRig, imagePair, SLOT_BYTES } from './image-pair.ts';
import { snapshot } from './selectors/contract.ts';
import { grubRig, OWN_ACCESS, raspberryPiRig, run, systemdBootRig } from './selectors/rigs.ts';
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

test('a trial is pending until it is booted, and running afterwards', async () => {
  const pair = await grubPair();
  const slots = await pair.open();
  await install(slots, 'b', await pair.release('1.1.0'));
  await slots.activate('b', TRIAL);
  expect((await viewOf(slots)).trial).toEqual({ slot: 'b', triesLeft: 2, deployment: 'd1' });
  expect(await slots.running()).toEqual({ slot: 'a', trial: false });
  expect(await slots.activate('b', TRIAL)).toEqual({ ok: true });
  expect(await slots.activate('b', { tries: 1, deployment: 'd2' })).toMatchObject(REFUSED);
  await pair.powerOn();
  const next = await pair.open();
  expect(await next.running()).toEqual({ slot: 'b', trial: true });
  expect((await viewOf(next)).trial).toEqual({ slot: 'b', triesLeft: 1, deployment: 'd1' });
  // Its last try is a trial like any other, and nobody reboots it.
  await pair.powerOn();
  expect(await (await pair.open()).boot()).toEqual({ booted: 'b', trial: true });
});

test('a reverted trial reboots into what ran before', async () => {
  const pair = await grubPair();
  const slots = await pair.open();
  await install(slots, 'b', await pair.release('1.1.0'));
  await slots.activate('b', TRIAL);
  await pair.powerOn();
  const onTrial = await pair.open();
  expect(await onTrial.revert()).toEqual({ ok: true });
  // The trial still runs: nothing may be written into its slot, nor into the one that boots next.
  expect(await onTrial.prepare('b')).toMatchObject(REFUSED);
  expect(await onTrial.prepare('a')).toMatchObject(REFUSED);
  expect(await onTrial.boot()).toEqual({ booted: null, why: 'the device has not rebooted within 100 ms' });
  expect(await pair.rebootsAsked()).toBe(1);
  expect(await pair.powerOn()).toBe('a');
  const back = await pair.open();
  expect(await back.boot()).toEqual({ booted: 'a', trial: false });
  expect(await viewOf(back)).toMatchObject({ active: 'a', trial: null, slots: { b: { state: 'bootable' } } });
});

test('22: a release that never comes up is given up by the boot loader, and that is known', async () => {
  const pair = await grubPair();
  const slots = await pair.open();
  await install(slots, 'b', await pair.release('1.1.0'));
  await slots.activate('b', TRIAL);
  expect([await pair.powerOn(), await pair.powerOn(), await pair.powerOn()]).toEqual(['b', 'b', 'a']);
  const back = await pair.open();
  expect((await viewOf(back)).trial).toEqual({ slot: 'b', triesLeft: 0, deployment: 'd1' });
  expect(await back.boot()).toEqual({ booted: 'a', trial: false });
  expect(await back.commit()).toMatchObject(REFUSED);
  expect(await back.revert()).toEqual({ ok: true });
  expect((await viewOf(back)).trial).toBeNull();
});

test('19: what is in vain is refused before anything is written', async () => {
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
  for (const { fetched } of [large, foreign, noImage]) await rm(fetched[0]!.file);
  expect(await fits(large)).toMatchObject({ ok: false, code: 'NO_SPACE' });
  expect(await fits(foreign)).toMatchObject({ ok: false, code: 'INCOMPATIBLE_HARDWARE' });
  expect(await fits(noImage)).toMatchObject(REFUSED);
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

test('11: with a boot selector that can not be read nothing is written, and what runs goes on running', async () => {
  const pair = await grubPair();
  const release = await pair.release('1.1.0');
  await pair.damage();
  const before = await snapshot(pair.dir);
  const slots = await pair.open();
  expect(await slots.inspect()).toMatchObject(REFUSED);
  const refusals = [
    await slots.prepare('b', release.manifest),
    await slots.write('b', release.manifest, release.digest, release.fetched),
    await slots.activate('b', TRIAL),
    await slots.commit(),
    await slots.revert(),
  ];
  for (const refusal of refusals) expect(refusal).toMatchObject(REFUSED);
  expect(await slots.boot()).toMatchObject({ booted: null });
  expect(await snapshot(pair.dir)).toEqual(before);
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

test('15: a bit that flips in the slot is found by reading it back, and the slot is not bootable', async () => {
  const pair = await grubPair();
  const { manifest, digest, fetched } = await pair.release('1.1.0');
  const slots = await pair.open();
  await slots.prepare('b', manifest);
  await slots.write('b', manifest, digest, fetched);
  await flipByte(pair.files.b, 1_234_567);
  expect(await slots.verify('b')).toMatchObject({ ok: false, code: 'WRITE_VERIFY' });
  expect(await slots.activate('b', TRIAL)).toMatchObject(REFUSED);
  expect((await viewOf(slots)).slots.b).toEqual({ state: 'unbootable' });
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

test('a download that changed on the disk is not installed', async () => {
  const pair = await grubPair();
  const { manifest, digest, fetched } = await pair.release('1.1.0');
  const slots = await pair.open();
  await slots.prepare('b', manifest);
  await flipByte(fetched[0]!.file, 7);
  expect(await slots.write('b', manifest, digest, fetched)).toMatchObject({ ok: false, code: 'TARGET_HASH' });
  expect(await slots.verify('b')).toMatchObject({ ok: false, code: 'WRITE_VERIFY' });
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
  // The kernel of slot b can not be loaded any more, say.
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

// ---- Power cuts

class Cut extends Error {}

/** What the state machine does, from wherever it is after a boot. */
const goOn = async (slots: Slots, slot: SlotName, { manifest, digest, fetched }: Release): Promise<string> => {
  const { active, trial, slots: contents } = await viewOf(slots);
  const done = (result: { ok: boolean }): void => expect(result).toMatchObject({ ok: true });
  if (active === slot) return 'committed';
  if (trial?.slot === slot) {
    const booted = await slots.boot();
    if (booted.booted === null) return 'reboots';
    if (!booted.trial) done(await slots.revert());
    else done(await slots.commit());
    return booted.trial ? 'committed' : 'reverted';
  }
  if (contents[slot].state !== 'bootable') {
    done(await slots.prepare(slot, manifest));
    done(await slots.write(slot, manifest, digest, fetched));
    done(await slots.verify(slot));
  }
  done(await slots.activate(slot, { tries: 3, deployment: 'd9' }));
  return (await slots.boot()).booted === null ? 'reboots' : 'stays';
};

test.each([
  ['GRUB', () => grubRig(OWN_ACCESS)],
  ['systemd-boot', systemdBootRig],
  ['Raspberry Pi', raspberryPiRig],
] as const)(
  '9: the power is cut after every durable step, and a verified slot boots, and the release arrives (%s)',
  async (_, rig) => {
    const steps = new Set<string>();
    const seen = async (pair: ImagePairRig, release: Release, crashPoint: (name: string) => void): Promise<void> => {
      let slots = await pair.open(crashPoint);
      for (let boot = 0; boot < 12; boot += 1) {
        const came = await goOn(slots, 'b', release).catch((error: unknown) => {
          if (error instanceof Cut) return 'cut';
          throw error;
        });
        if (came === 'committed') return;
        const armed = came === 'reboots' && pair.settings['kind'] === 'raspberry-pi';
        const booted = await pair.powerOn(armed);
        const image = await readFile(release.fetched[0]!.file);
        const whole = (await readFile(pair.files.b)).subarray(0, image.length).equals(image);
        expect(booted === 'a' || whole).toBe(true);
        slots = await pair.open(crashPoint);
      }
      throw new Error('it never arrives');
    };
    const first = await imagePair(await rig());
    await seen(first, await first.release('1.1.0'), (name) => void steps.add(name));
    expect(steps.size).toBeGreaterThanOrEqual(8);
    for (const step of steps) {
      const pair = await imagePair(await rig());
      let cuts = 0;
      await seen(pair, await pair.release('1.1.0'), (name) => {
        if (name !== step || cuts > 0) return;
        cuts += 1;
        throw new Cut();
      });
      expect(cuts).toBe(1);
      expect(await pair.powerOn()).toBe('b');
    }
  },
);

test('the slot before it stays the last resort only as long as it is whole', async () => {
  const pair = await grubPair();
  await deploy(pair, 'b', await pair.release('1.1.0'));
  const slots = await pair.open();
  expect(await slots.prepare(other('b'))).toEqual({ ok: true });
  expect(await readFile(`${pair.dir}/grubenv`, 'latin1')).toContain('ORDER=B\n');
});

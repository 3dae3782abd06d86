/** What is particular to one kind of boot selector, on its files, with the distribution's own tools where they are. */
import { readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { committedFile, openGrubSelector } from '#agent/slots/selectors/grub.ts';
import { BLOCK_BYTES, makeBlock, parseBlock } from '#agent/slots/selectors/grub-block.ts';
import { parseAutoboot, withPartitions } from '#agent/slots/selectors/raspberry-pi.ts';
import { openUbootSelector } from '#agent/slots/selectors/uboot.ts';
import { newestOf, parseConfig, parseCopy, readEnvironment } from '#agent/slots/selectors/uboot-environment.ts';
import { reboot } from './contract.ts';
import {
  COPY_BYTES,
  folder,
  GRUB_EDITENV,
  grubRig,
  hasTool,
  OWN_ACCESS,
  raspberryPiRig,
  run,
  systemdBootRig,
  ubootCopy,
  ubootRig,
} from './rigs.ts';

const selectionOf = async (selector: { read(): Promise<unknown> }) => selector.read();
const A_ALONE = { state: 'read', selection: { active: 'a', trial: null } };

describe.skipIf(!hasTool('fw_setenv'))('U-Boot with libubootenv (fw_setenv must be installed)', () => {
  test.each(['rauc', 'mender'] as const)(
    '10: torn write of the newest environment copy, activation: the previous copy wins (%s)',
    async (convention) => {
      const rig = await ubootRig(convention);
      await rig.open().disable('b');
      await rig.open().setTrial('b', 3);
      await rig.tear!();
      expect(await selectionOf(rig.open())).toEqual(A_ALONE);
      expect(await reboot(rig)).toBe('a');
      // The next change replaces the torn copy, and everything else that U-Boot keeps there is still there.
      await rig.open().setTrial('b', 3);
      expect(await reboot(rig)).toBe('b');
      expect((await readEnvironment(rig.config)) as object).toMatchObject({
        copies: [{ arch: 'arm' }, { arch: 'arm' }],
      });
    },
  );

  test.each(['rauc', 'mender'] as const)(
    'what is disabled does not boot from the older copy either (%s)',
    async (convention) => {
      const rig = await ubootRig(convention);
      await rig.open().setTrial('b', 3);
      await rig.open().disable('b');
      await rig.tear!();
      expect(await reboot(rig)).toBe('a');
      expect(await selectionOf(rig.open())).toMatchObject(A_ALONE);
    },
  );

  test('one write is all of a change', async () => {
    const rig = await ubootRig('rauc');
    const before = await readFile(rig.environment);
    await rig.open().setTrial('b', 3);
    const after = await readFile(rig.environment);
    // The newest copy is untouched, the other is one ahead of it.
    expect(after.subarray(0, COPY_BYTES).equals(before.subarray(0, COPY_BYTES))).toBe(true);
    expect(after[COPY_BYTES + 4]).toBe(before[4]! + 1);
  });

  test('a single environment is refused, in words that say what to do', async () => {
    const rig = await ubootRig('rauc');
    await writeFile(rig.config, `${rig.environment} 0x0 0x2000\n`);
    expect(await rig.open().read()).toMatchObject({ state: 'damaged', why: expect.stringContaining('second line') });
    expect(await rig.open().check()).toMatchObject([{ grave: true }]);
    await expect(rig.open().setTrial('b', 1)).rejects.toThrow('second line');
  });

  test('an environment without the variables of its convention is refused', async () => {
    const rig = await ubootRig('rauc');
    const selector = openUbootSelector({ config: rig.config, convention: 'mender', partitions: { a: 2, b: 3 } });
    expect(await selector.read()).toMatchObject({ state: 'damaged', why: expect.stringContaining('mender_boot_part') });
    expect(await selector.check()).toMatchObject([{ grave: true }]);
  });

  test('what the tools write is what our reader reads', async () => {
    const rig = await ubootRig('rauc');
    run('fw_setenv', ['-c', rig.config, 'greeting', 'a=b c']);
    const environment = await readEnvironment(rig.config);
    if (typeof environment === 'string') throw new Error(environment);
    expect(environment.copies[environment.newest!]).toMatchObject({ greeting: 'a=b c', BOOT_ORDER: 'A B' });
    expect(environment.copies[environment.newest === 0 ? 1 : 0]).not.toHaveProperty('greeting');
  });
});

test('U-Boot: a copy is read only when it is whole, and the newest counts', async () => {
  const copy = ubootCopy({ BOOT_ORDER: 'A B', empty: '' }, 7);
  expect(parseCopy(copy)).toEqual({ flag: 7, variables: { BOOT_ORDER: 'A B', empty: '' } });
  expect(parseCopy(copy.subarray(0, 100))).toBeNull();
  expect(parseCopy(Buffer.alloc(0))).toBeNull();
  fc.assert(
    fc.property(fc.integer({ min: 0, max: COPY_BYTES * 8 - 1 }), (bit) => {
      const torn = Buffer.from(copy);
      torn[bit >> 3]! ^= 1 << (bit & 7);
      // The flag is not part of the sum.
      expect(parseCopy(torn) === null).toBe(bit >> 3 !== 4);
    }),
  );
  const flags = (first: number, second: number) => newestOf({ flag: first }, { flag: second });
  expect([flags(1, 2), flags(2, 1), flags(255, 0), flags(0, 255), flags(3, 3)]).toEqual([1, 0, 1, 0, 0]);
  expect([newestOf(null, { flag: 0 }), newestOf({ flag: 0 }, null), newestOf(null, null)]).toEqual([1, 0, null]);
});

test('U-Boot: both copies may be on devices of their own, at offsets from the end too', async () => {
  const dir = await folder();
  const [one, two, config] = ['one', 'two', 'config'].map((name) => join(dir, name)) as [string, string, string];
  await writeFile(one, Buffer.concat([Buffer.alloc(4096), ubootCopy({ here: '1' }, 1)]));
  await writeFile(two, Buffer.concat([ubootCopy({ here: '2' }, 2), Buffer.alloc(COPY_BYTES)]));
  await writeFile(config, `${one} 0x1000 0x2000 # first\n\n${two} -0x4000 0x2000\n`);
  expect(await readEnvironment(config)).toEqual({ copies: [{ here: '1' }, { here: '2' }], newest: 1 });
  await rm(two);
  expect(await readEnvironment(config)).toContain(two);
  expect(parseConfig('/dev/x zero 0x2000')).toContain('zero');
  expect(parseConfig('')).toContain('no environment');
  expect(parseConfig('/a 0 0x20\n/a 0x20 0x20\n/a 0x40 0x20')).toContain('more than two');
});

const name = fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_]{0,11}$/);
const value = fc.string({
  maxLength: 24,
  unit: fc.constantFrom('a', 'B', ' ', '\\', '\n', '=', '#', "'", '"', '$', '-'),
});

test('GRUB: what is put into a block comes out of it again', () => {
  fc.assert(
    fc.property(fc.dictionary(name, value, { maxKeys: 12 }), (variables) => {
      const block = makeBlock(variables)!;
      expect(block.length).toBe(BLOCK_BYTES);
      expect(parseBlock(block)).toEqual({ ...variables });
    }),
  );
  expect(makeBlock({ long: 'x'.repeat(1024) })).toBeUndefined();
});

test('GRUB: what is no block of 1024 bytes is none', () => {
  const block = makeBlock({ ORDER: 'A B' })!;
  const torn = Buffer.from(block);
  torn.fill(0, 512);
  const cases = [block.subarray(0, 512), Buffer.concat([block, block]), Buffer.alloc(1024, '#'), torn, Buffer.alloc(0)];
  for (const bytes of cases) expect(parseBlock(bytes)).toBeUndefined();
});

describe.skipIf(!hasTool('grub-editenv'))('GRUB with grub-editenv (must be installed)', () => {
  test('both read what the other has written', async () => {
    const file = join(await folder(), 'grubenv');
    await fc.assert(
      fc.asyncProperty(
        fc.dictionary(
          name,
          fc.string({ maxLength: 16, unit: fc.constantFrom('a', 'B', ' ', '\\', '=', '#', '"', '$') }),
          { maxKeys: 8 },
        ),
        async (variables) => {
          await writeFile(file, makeBlock(variables)!);
          expect(await GRUB_EDITENV.list(file)).toEqual({ ...variables });
          run('grub-editenv', [file, 'create']);
          if (Object.keys(variables).length > 0) await GRUB_EDITENV.set(file, variables);
          expect(parseBlock(await readFile(file))).toEqual({ ...variables });
        },
      ),
      { numRuns: 15 },
    );
  });
});

test('GRUB: with a damaged block the committed slot boots from the second file, and nothing is installed', async () => {
  const rig = await grubRig(OWN_ACCESS);
  await rig.open().disable('b');
  await rig.open().setTrial('b', 1);
  await reboot(rig);
  await rig.open().commit('b');
  await rig.open().disable('a');
  await rig.damage();
  expect(await rig.powerOn()).toBe('b');
  expect(await rig.open().read()).toMatchObject({ state: 'damaged' });
});

test('GRUB: a trial is never in the second file, and what else is in the block stays', async () => {
  const rig = await grubRig(OWN_ACCESS);
  await rig.open().disable('b');
  await rig.open().setTrial('b', 3);
  const second = parseBlock(await readFile(committedFile(rig.environment)))!;
  expect(second).toMatchObject({ ORDER: 'A', B_OK: '0', saved_entry: 'gateway' });
  expect(second).not.toHaveProperty('TRIAL');
  await rig.open().commit('b');
  expect(parseBlock(await readFile(rig.environment))).toMatchObject({ ORDER: 'B A', saved_entry: 'gateway' });
  expect(await readdir(rig.dir)).toEqual(['grubenv', 'grubenv.committed']);
});

test('GRUB: what it counts itself stays within the first sector', async () => {
  const rig = await grubRig(OWN_ACCESS);
  await rig.open().setTrial('b', 3);
  const block = await readFile(rig.environment);
  expect(block.indexOf('B_TRY=0\n')).toBeLessThan(512);
  expect(await rig.open().check()).toEqual([]);
  await writeFile(rig.environment, makeBlock({ ORDER: 'A', A_OK: '1', more: 'x'.repeat(500) })!);
  expect(await rig.open().check()).toMatchObject([{ grave: false, sentence: expect.stringContaining('512') }]);
  await truncate(rig.environment, 512);
  expect(await openGrubSelector({ environment: rig.environment }).read()).toMatchObject({ state: 'damaged' });
});

test('GRUB: a change is made where the block is, within its first sector: no name and no journal comes between it and GRUB', async () => {
  const rig = await grubRig(OWN_ACCESS);
  await rig.open().disable('b');
  const places = () =>
    Promise.all([rig.environment, committedFile(rig.environment)].map(async (file) => (await stat(file)).ino));
  const [before, place] = [await readFile(rig.environment), await places()];
  await rig.open().setTrial('b', 3);
  await rig.open().commit('b');
  const after = await readFile(rig.environment);
  expect(await places()).toEqual(place);
  expect(after.subarray(0, 512).equals(before.subarray(0, 512))).toBe(false);
  expect(after.subarray(512).equals(before.subarray(512))).toBe(true);
});

test('Raspberry Pi: everything in autoboot.txt but the two numbers stays, and a cut in a commit leaves a committed slot', async () => {
  const text = '# mine\n[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition = 3 \n[none]\nx=1\n';
  expect(parseAutoboot(text)).toEqual({ abWanted: true, all: '2', tryboot: '3' });
  const swapped = withPartitions(text, 3, 2);
  expect(swapped).toBe('# mine\n[all]\ntryboot_a_b=1\nboot_partition=3\n[tryboot]\nboot_partition=2\n[none]\nx=1\n');
  const rig = await raspberryPiRig();
  await rig.open().setTrial('b', 3);
  // Cut after the first of the two steps: the note of the trial is still there.
  const autoboot = join(rig.dir, 'autoboot.txt');
  await writeFile(autoboot, withPartitions(await readFile(autoboot, 'utf8'), 3, 2));
  expect(await rig.open().read()).toEqual({ state: 'read', selection: { active: 'b', trial: null } });
});

test('Raspberry Pi: switching off during a trial goes back, and a restart by the agent tries again', async () => {
  const rig = await raspberryPiRig();
  await rig.open().setTrial('b', 2);
  expect(await rig.open().arm()).not.toBeNull();
  expect([await rig.powerOn(true), await rig.powerOn(), await reboot(rig), await reboot(rig)]).toEqual([
    'b',
    'a',
    'b',
    'a',
  ]);
});

test('systemd-boot: a cut in a commit leaves both names of the slot, and it is committed', async () => {
  const rig = await systemdBootRig();
  await rig.open().setTrial('b', 3);
  expect(await reboot(rig)).toBe('b');
  const entries = join(rig.dir, 'loader/entries');
  await writeFile(join(entries, 'sluice-b.conf'), await readFile(join(entries, 'sluice-b+2-1.conf')));
  expect(await rig.open().read()).toEqual({ state: 'read', selection: { active: 'b', trial: null } });
  expect(await rig.powerOn()).toBe('b');
  await rig.open().keep();
  expect((await readdir(entries)).sort()).toEqual(['rescue.conf', 'sluice-a.conf', 'sluice-b.conf']);
  expect(await readFile(join(entries, 'sluice-b.conf'), 'utf8')).toBe(
    'title Slot b\nlinux /b/linux\noptions sluice.slot=b\nsort-key sluice\nversion 2\n',
  );
});

test('systemd-boot: an entry that a cut has left empty is none, and the next one replaces it', async () => {
  const rig = await systemdBootRig();
  const entries = join(rig.dir, 'loader/entries');
  await writeFile(join(entries, 'sluice-b+3.conf'), '');
  expect(await rig.open().read()).toEqual(A_ALONE);
  await rig.open().setTrial('b', 3);
  expect(await reboot(rig)).toBe('b');
  // The same in a commit: the trial goes on.
  await writeFile(join(entries, 'sluice-b.conf'), '');
  expect(await rig.open().read()).toMatchObject({ selection: { active: 'a', trial: { slot: 'b', triesLeft: 2 } } });
  await rig.open().commit('b');
  expect(await rig.open().read()).toMatchObject({ selection: { active: 'b', trial: null } });
});

test('Raspberry Pi: autoboot.txt is overwritten where it is, since FAT does not replace files in one step', async () => {
  const rig = await raspberryPiRig();
  const autoboot = join(rig.dir, 'autoboot.txt');
  await writeFile(autoboot, '[all]\ntryboot_a_b=1\nboot_partition = 2  \n[tryboot]\nboot_partition=3\n');
  const before = await stat(autoboot);
  await rig.open().setTrial('b', 1);
  await rig.open().commit('b');
  expect(await stat(autoboot)).toMatchObject({ ino: before.ino, size: before.size });
  expect(await rig.powerOn()).toBe('b');
  expect(await readdir(rig.dir)).toEqual(['autoboot.txt']);
});

test('systemd-boot: a fixed default in loader.conf would boot an entry without tries, and is refused', async () => {
  const rig = await systemdBootRig();
  const loader = join(rig.dir, 'loader/loader.conf');
  await writeFile(loader, 'timeout 0\ndefault sluice-*\n');
  expect(await rig.open().check()).toEqual([]);
  await writeFile(loader, 'timeout 0\ndefault sluice-a.conf\n');
  expect(await rig.open().check()).toMatchObject([{ grave: true, sentence: expect.stringContaining('sluice-a.conf') }]);
});

test.skipIf(!hasTool('grub-script-check'))(
  'GRUB: the script of docs/boot-selectors.md is one (grub-script-check must be installed)',
  async () => {
    const document = await readFile(join(import.meta.dirname, '../../../../docs/boot-selectors.md'), 'utf8');
    const [script, ...more] = [...document.matchAll(/```grub\n([\s\S]*?)```/g)].map(([, text]) => text!);
    expect(more).toEqual([]);
    const file = join(await folder(), 'grub.cfg');
    await writeFile(file, script!);
    run('grub-script-check', [file]);
  },
);

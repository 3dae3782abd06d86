/**
 * Boot selectors, each with a boot loader that reads what is on the disk as the documented script does, and counts
 * down.
 */
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { onTestFinished } from 'vitest';
import type { SlotName } from '#agent/domain/slots.ts';
import { committedFile, openGrubSelector } from '#agent/slots/selectors/grub.ts';
import { makeBlock, parseBlock } from '#agent/slots/selectors/grub-block.ts';
import { openRaspberryPiSelector, parseAutoboot } from '#agent/slots/selectors/raspberry-pi.ts';
import type { ImageSelector } from '#agent/slots/selectors/selector.ts';
import { openSystemdBootSelector, parseEntryName } from '#agent/slots/selectors/systemd-boot.ts';
import { openUbootSelector } from '#agent/slots/selectors/uboot.ts';

export type Rig = {
  /** Everything that a power cut leaves. */
  dir: string;
  open(): ImageSelector;
  /** The same for an agent's configuration; `tryboot` is its own. */
  settings: Record<string, unknown>;
  /** The device is switched on; `armed`: by the reboot that the selector asked for. */
  powerOn(armed?: boolean): Promise<SlotName>;
  /** Nothing of the selector can be read any more. */
  damage(): Promise<void>;
  /** The copy written last is torn; absent where there is one copy only. */
  tear?(): Promise<void>;
};

export const hasTool = (name: string): boolean => {
  try {
    execFileSync(name, ['--version'], { stdio: 'ignore', env: TOOL_ENV });
    return true;
  } catch {
    return false;
  }
};
const TOOL_ENV = { PATH: `${process.env['PATH']}:/usr/sbin:/sbin` };
/** What it writes to standard output; throws when it fails. */
export const run = (tool: string, words: string[]): string =>
  execFileSync(tool, words, { encoding: 'utf8', env: TOOL_ENV, stdio: ['ignore', 'pipe', 'pipe'] });

export const folder = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-selector-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
};
const flip = async (file: string, at: number): Promise<void> => {
  const handle = await open(file, 'r+');
  const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, at);
  buffer[0]! ^= 0x55;
  await handle.write(buffer, 0, 1, at);
  await handle.close();
};

// ---- U-Boot

export const COPY_BYTES = 0x2000;
/** One copy as U-Boot and its tools write it. */
export const ubootCopy = (variables: Record<string, string>, flag: number): Buffer => {
  const pairs = Object.entries(variables).map(([name, value]) => `${name}=${value}\0`);
  const data = Buffer.alloc(COPY_BYTES - 5);
  data.write(`${pairs.join('')}\0`, 'latin1');
  const head = Buffer.alloc(5);
  head.writeUInt32LE(crc32(data));
  head[4] = flag;
  return Buffer.concat([head, data]);
};

const UBOOT_START = {
  rauc: { BOOT_ORDER: 'A B', BOOT_A_LEFT: '3', BOOT_B_LEFT: '3', arch: 'arm' },
  mender: { mender_boot_part: '2', mender_boot_part_hex: '2', upgrade_available: '0', bootcount: '0', arch: 'arm' },
};

/** Needs `fw_printenv` and `fw_setenv`: the boot loader is played with the tools too. */
export const ubootRig = async (
  convention: 'rauc' | 'mender',
  makeFolder = folder,
): Promise<Rig & { environment: string; config: string }> => {
  const dir = await makeFolder();
  const [environment, config] = [join(dir, 'uboot.env'), join(dir, 'fw_env.config')];
  await writeFile(
    environment,
    Buffer.concat([ubootCopy(UBOOT_START[convention], 1), ubootCopy(UBOOT_START[convention], 0)]),
  );
  await writeFile(config, `# two copies\n${environment} 0x0 0x2000\n${environment} 0x2000 0x2000\n`);
  const get = (): Record<string, string> =>
    Object.fromEntries(
      run('fw_printenv', ['-c', config])
        .split('\n')
        .filter((line) => line.includes('='))
        .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    );
  const set = async (changes: Record<string, string>): Promise<void> => {
    const script = join(dir, 'script');
    await writeFile(
      script,
      Object.entries(changes)
        .map(([name, value]) => `${name}=${value}\n`)
        .join(''),
    );
    run('fw_setenv', ['-c', config, '-s', script]);
  };
  /** The script of RAUC's manual. */
  const bootRauc = async (): Promise<SlotName> => {
    const variables = get();
    for (const letter of (variables['BOOT_ORDER'] ?? 'A B').split(' ')) {
      const left = Number.parseInt(variables[`BOOT_${letter}_LEFT`] ?? '3', 16);
      if (left === 0) continue;
      await set({ [`BOOT_${letter}_LEFT`]: (left - 1).toString(16) });
      return letter === 'A' ? 'a' : 'b';
    }
    await set({ BOOT_A_LEFT: '3', BOOT_B_LEFT: '3' });
    return bootRauc();
  };
  /** CONFIG_BOOTCOUNT_ENV with Mender's `altbootcmd`. */
  const bootMender = async (): Promise<SlotName> => {
    const variables = get();
    let part = variables['mender_boot_part'];
    if (variables['upgrade_available'] === '1') {
      const count = Number(variables['bootcount'] ?? 0) + 1;
      if (count > Number(variables['bootlimit'] ?? 1)) {
        part = part === '2' ? '3' : '2';
        await set({ mender_boot_part: part, mender_boot_part_hex: part, upgrade_available: '0', bootcount: '0' });
      } else await set({ bootcount: String(count) });
    }
    return part === '2' ? 'a' : 'b';
  };
  const newest = async (): Promise<number> => {
    const bytes = await readFile(environment);
    const ahead = (bytes[COPY_BYTES + 4]! - bytes[4]! + 256) % 256;
    return ahead === 1 ? COPY_BYTES : 0;
  };
  return {
    dir,
    environment,
    config,
    settings: { kind: 'uboot', config, convention },
    open: () => openUbootSelector({ config, convention, partitions: { a: 2, b: 3 } }),
    powerOn: () => (convention === 'rauc' ? bootRauc() : bootMender()),
    damage: async () => {
      await flip(environment, 20);
      await flip(environment, COPY_BYTES + 20);
    },
    tear: async () => flip(environment, (await newest()) + 12),
  };
};

// ---- GRUB

/** How the boot loader gets at its block: as `grub-editenv` does, or with our own reader and writer. */
export type BlockAccess = {
  list(file: string): Promise<Record<string, string>>;
  set(file: string, changes: Record<string, string>): Promise<void>;
};
export const OWN_ACCESS: BlockAccess = {
  list: async (file) => {
    const variables = parseBlock(await readFile(file));
    if (variables === undefined) throw new Error('invalid environment block');
    return variables;
  },
  set: async (file, changes) => writeFile(file, makeBlock({ ...(await OWN_ACCESS.list(file)), ...changes })!),
};
export const GRUB_EDITENV: BlockAccess = {
  list: async (file) =>
    Object.fromEntries(
      run('grub-editenv', [file, 'list'])
        .split('\n')
        .filter((line) => line.includes('='))
        .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    ),
  set: async (file, changes) => {
    run('grub-editenv', [file, 'set', ...Object.entries(changes).map(([name, value]) => `${name}=${value}`)]);
  },
};

export const grubRig = async (access: BlockAccess, makeFolder = folder): Promise<Rig & { environment: string }> => {
  const dir = await makeFolder();
  const environment = join(dir, 'grubenv');
  const start = { ORDER: 'A B', A_OK: '1', A_TRY: '0', B_OK: '1', B_TRY: '0', saved_entry: 'gateway' };
  await writeFile(environment, makeBlock(start)!);
  return {
    dir,
    environment,
    settings: { kind: 'grub', environment },
    open: () => openGrubSelector({ environment }),
    // The script of docs/boot-selectors.md.
    powerOn: async () => {
      const variables = await access
        .list(environment)
        .catch(() => access.list(committedFile(environment)))
        .catch((): Record<string, string> => ({ ORDER: 'A B', A_OK: '1', B_OK: '1' }));
      for (const letter of variables['ORDER']!.split(' ')) {
        if (variables[`${letter}_OK`] !== '1') continue;
        if (letter === variables['TRIAL']) {
          const left = Number(variables['TRIAL_LEFT']);
          if (left === 0) continue;
          await access.set(environment, { TRIAL_LEFT: String(left - 1) });
        }
        return letter === 'A' ? 'a' : 'b';
      }
      throw new Error('nothing boots');
    },
    damage: () => flip(environment, 3),
  };
};

// ---- Raspberry Pi

export const raspberryPiRig = async (makeFolder = folder): Promise<Rig> => {
  const dir = await makeFolder();
  const [autoboot, armedFile] = [join(dir, 'autoboot.txt'), join(dir, 'armed')];
  await writeFile(autoboot, '# of this device\n[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n');
  const partitions = { a: 2, b: 3 };
  return {
    dir,
    settings: { kind: 'raspberry-pi', autoboot, partitions },
    open: () => openRaspberryPiSelector({ autoboot, partitions, tryboot: ['touch', armedFile], dir }),
    powerOn: async (asked = false) => {
      const armed = asked || (await readdir(dir)).includes('armed');
      await rm(armedFile, { force: true });
      const read = parseAutoboot(await readFile(autoboot, 'utf8'));
      return (armed ? read.tryboot : read.all) === '2' ? 'a' : 'b';
    },
    damage: () => writeFile(autoboot, '[all]\nboot_partition=2\n'),
  };
};

// ---- systemd-boot

export const systemdBootRig = async (makeFolder = folder): Promise<Rig> => {
  const dir = await makeFolder();
  const entries = join(dir, 'loader', 'entries');
  const templates = { a: join(dir, 'a.template'), b: join(dir, 'b.template') };
  await mkdir(entries, { recursive: true });
  for (const slot of ['a', 'b'] as const)
    await writeFile(
      templates[slot],
      `title Slot ${slot}\nlinux /${slot}/linux\noptions sluice.slot=${slot}\nversion 7\n`,
    );
  await writeFile(
    join(entries, 'sluice-a.conf'),
    `title Slot a\nlinux /a/linux\noptions sluice.slot=a\nsort-key sluice\nversion 1\n`,
  );
  await writeFile(join(entries, 'rescue.conf'), 'title Rescue\nlinux /rescue\n');
  return {
    dir,
    settings: { kind: 'systemd-boot', entries, templates },
    open: () => openSystemdBootSelector({ entries, templates }),
    // The order of the Boot Loader Specification: without tries left last; then by sort-key and version; what it counts
    // is renamed before it boots.
    powerOn: async () => {
      const found = [];
      for (const name of await readdir(entries)) {
        const parsed = parseEntryName(name);
        if (parsed === undefined) continue;
        const version = Number(/^version (\d+)$/m.exec(await readFile(join(entries, name), 'utf8'))?.[1]);
        found.push({ name, ...parsed, version, spent: parsed.left === 0 ? 1 : 0 });
      }
      found.sort((one, two) => one.spent - two.spent || two.version - one.version);
      const first = found[0]!;
      if (first.left !== null && first.left > 0) {
        const done = Number(/-(\d+)\.conf$/.exec(first.name)?.[1] ?? 0) + 1;
        await rename(join(entries, first.name), join(entries, `sluice-${first.slot}+${first.left - 1}-${done}.conf`));
      }
      return first.slot;
    },
    damage: async () => {
      for (const name of await readdir(entries)) if (parseEntryName(name) !== undefined) await rm(join(entries, name));
    },
  };
};

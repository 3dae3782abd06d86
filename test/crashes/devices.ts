/** The devices that are explored: each adapter with each of its boot selectors, or kinds of installer. */
import { mkdir, mkdtemp, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Supervisor } from '#agent/application/supervisor.ts';
import { SlotsConfig } from '#agent/config/slots-config.ts';
import type { SlotName, Slots } from '#agent/domain/slots.ts';
import { openBootSelector } from '#agent/slots/boot-selector.ts';
import { openDirectorySlots } from '#agent/slots/directories.ts';
import { openImageSlots } from '#agent/slots/image.ts';
import { readImageRecord } from '#agent/slots/image-record.ts';
import { openSelector } from '#agent/slots/selectors/open-selector.ts';
import { newestOf, parseCopy } from '#agent/slots/selectors/uboot-environment.ts';
import { readSlotRecord } from '#agent/slots/slot-record.ts';
import {
  COPY_BYTES,
  grubRig,
  OWN_ACCESS,
  type Rig,
  raspberryPiRig,
  systemdBootRig,
  ubootCopy,
  ubootRig,
} from '#test/agent/slots/selectors/rigs.ts';
import { delegates } from './delegate.ts';
import { COMPATIBLE, installFirst, type Kind, PAIR, ROOT } from './device.ts';
import { log } from './log.ts';
import type { Ran } from './mount.ts';
import type { Release } from './releases.ts';
import type { Volume } from './volume.ts';

const SLOT_BYTES = 160 * 1024;

const noProgram = { run: () => undefined, runSync: () => '', startsTrial: () => false };

const directories: Kind = {
  name: 'directories',
  kind: 'directories',
  make: async (_mounted, first) => {
    const openSlots = (supervisor: Supervisor): Promise<Slots> => openDirectorySlots({ dir: PAIR, supervisor });
    const idle = { running: () => null, start: async () => ({ ok: true }), keepRunning: () => undefined };
    await installFirst(await openSlots(idle as unknown as Supervisor), first);
    const isWhole = async (slot: SlotName, release: Release): Promise<boolean> => {
      for (const [path, content] of release.files) {
        const there = await readFile(join(PAIR, slot, path)).catch(() => undefined);
        if (there?.equals(content) !== true) return false;
      }
      return (await readdir(join(PAIR, slot))).length === release.names;
    };
    return {
      ...noProgram,
      openSlots,
      powerOn: async () => undefined,
      isSelector: (path) => path.startsWith(`${PAIR}/boot.`),
      fault: async (release) => {
        const found = await openBootSelector(PAIR).read();
        if (found.state !== 'read') return `the boot selector is ${found.state}`;
        for (const slot of ['a', 'b'] as const) {
          const record = await readSlotRecord(PAIR, slot);
          if (record?.state !== 'bootable') continue;
          const version = record.running.version === first.version ? first : release;
          if (!(await isWhole(slot, version))) return `slot ${slot} is bootable, and not what was verified`;
        }
        const { active } = found.selection;
        const record = active === null ? undefined : await readSlotRecord(PAIR, active);
        return record?.state === 'bootable' ? undefined : `the active slot ${active} does not boot`;
      },
    };
  },
};

/** `fw_printenv` and `fw_setenv` of libubootenv: the older copy is written whole, with the next number, and flushed. */
const fwTools = (volume: Volume, environment: string) => {
  const newest = () => {
    const { bytes } = volume.fileAt(environment, 'read');
    const copies = [parseCopy(bytes.subarray(0, COPY_BYTES)), parseCopy(bytes.subarray(COPY_BYTES))] as const;
    const index = newestOf(...copies);
    return index === null ? undefined : { index, ...copies[index]! };
  };
  const next = (script: string) => {
    const now = newest();
    if (now === undefined) throw new Error('both copies are damaged');
    const variables: Record<string, string> = { ...now.variables };
    for (const line of volume.fileAt(script, 'read').bytes.toString().split('\n').filter(Boolean)) {
      const [name, value] = [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)];
      if (value === '') delete variables[name];
      else variables[name] = value;
    }
    return { copy: ubootCopy(variables, (now.flag + 1) % 256), at: now.index === 0 ? COPY_BYTES : 0 };
  };
  const print = (): string =>
    Object.entries(newest()?.variables ?? {})
      .map(([name, value]) => `${name}=${value}\n`)
      .join('');
  const isSet = (words: string[]): boolean => words[0] === 'fw_setenv' && words.includes('-s');
  return {
    runSync: (words: string[]): string => {
      if (!isSet(words)) return print();
      const { copy, at } = next(words.at(-1)!);
      volume.put(volume.fileAt(environment, 'write'), copy, at);
      return '';
    },
    run: async (words: string[], step: (path: string) => boolean): Promise<Ran> => {
      if (!isSet(words)) return { code: 0, stdout: print(), stderr: '' };
      const { copy, at } = next(words.at(-1)!);
      const file = volume.fileAt(environment, 'write');
      if (step(environment)) return new Promise(() => undefined);
      volume.put(file, copy, at);
      if (step(environment)) return new Promise(() => undefined);
      volume.flush(file);
      return { code: 0, stdout: '', stderr: '' };
    },
  };
};

/** On the volume, with which it goes away. */
const rigFolder = (): Promise<string> => mkdtemp(`${ROOT}/tmp/rig-`);

const imageDevice = (name: string, makeRig: () => Promise<Rig>): Kind => ({
  name: `image, ${name}`,
  kind: 'image',
  make: async ({ volume }, first) => {
    const rig = await makeRig();
    const at = (file: string): string => join(rig.dir, file);
    const files = { a: at('slot-a'), b: at('slot-b') };
    await mkdir(PAIR, { recursive: true });
    await writeFile(files.a, Buffer.concat([first.image, Buffer.alloc(SLOT_BYTES - first.image.length)]));
    await writeFile(files.b, await readFile(files.a));
    const selector =
      rig.settings['kind'] === 'raspberry-pi' ? { ...rig.settings, tryboot: ['power-cycle', 'tryboot'] } : rig.settings;
    const config = SlotsConfig.parse({
      kind: 'image',
      ...files,
      selector,
      running: { by: 'command-line', file: at('cmdline') },
      reboot: ['power-cycle'],
      bootId: at('boot_id'),
    });
    if (config.kind !== 'image') throw new Error('no images');
    let boots = 0;
    const powerOn = async (command?: string[]): Promise<void> => {
      boots += 1;
      const slot = await rig.powerOn(command?.includes('tryboot') === true);
      await writeFile(at('cmdline'), `sluice.slot=${slot}`);
      await writeFile(at('boot_id'), `boot-${boots}`);
      volume.flushAll();
    };
    const holds = async (slot: SlotName, { image }: Release): Promise<boolean> =>
      (await readFile(files[slot])).subarray(0, image.length).equals(image);
    const tools =
      rig.settings['kind'] === 'uboot'
        ? fwTools(volume, (rig as unknown as { environment: string }).environment)
        : noProgram;
    return {
      ...noProgram,
      ...tools,
      openSlots: () =>
        openImageSlots({
          config,
          dir: PAIR,
          compatible: COMPATIBLE,
          selector: openSelector(config.selector, PAIR),
          log,
        }),
      powerOn,
      isSelector: (path) =>
        (path.startsWith(`${rig.dir}/`) && !path.startsWith(`${rig.dir}/slot-`)) ||
        path.startsWith(`${PAIR}/tryboot.json`),
      fault: async (release) => {
        for (const slot of ['a', 'b'] as const) {
          const record = await readImageRecord(PAIR, slot);
          if (record?.state === 'bootable' && !(await holds(slot, release)))
            return `slot ${slot} is bootable, and not what was verified`;
        }
        // As if nothing ever came up as far as an agent.
        for (let count = 0; count < 8; count += 1) {
          const slot = await rig.powerOn(false);
          if (!(await holds(slot, first)) && !(await holds(slot, release)))
            return `slot ${slot} boots, and is not whole`;
        }
        return undefined;
      },
    };
  },
});

export const KINDS: readonly Kind[] = [
  directories,
  imageDevice('U-Boot with the variables of RAUC', () => ubootRig('rauc', rigFolder)),
  imageDevice('U-Boot with the variables of Mender', () => ubootRig('mender', rigFolder)),
  imageDevice('GRUB', () => grubRig(OWN_ACCESS, rigFolder)),
  imageDevice('Raspberry Pi', () => raspberryPiRig(rigFolder)),
  imageDevice('systemd-boot', () => systemdBootRig(rigFolder)),
  ...delegates,
];

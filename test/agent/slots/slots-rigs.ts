/** Every adapter as a device that a test can switch off, damage and start again: for what all of them must do. */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { SlotName, Slots } from '#agent/domain/slots.ts';
import type { Verb } from '#agent/slots/delegate/verbs.ts';
import { slotFolder } from '#agent/slots/directories.ts';
import { Sha256 } from '#shared/ids.ts';
import { mcuPair } from './delegate/mcu.ts';
import { imagePair, SLOT_BYTES } from './image-pair.ts';
import { snapshot } from './selectors/contract.ts';
import { grubRig, hasTool, OWN_ACCESS, type Rig, raspberryPiRig, systemdBootRig, ubootRig } from './selectors/rigs.ts';
import { COPIES, flipByte, newestSelector, pair, type Release, sha256 } from './slot-pair.ts';

export type SlotsRig = {
  /** An agent starts, with nothing in memory. `cut` is called after every durable step. */
  open(cut?: (name: string) => void): Promise<Slots>;
  /** The device loses its power, and comes back as far as its boot loader: which slot has it chosen? */
  powerOn(slots: Slots): Promise<SlotName>;
  /** What is on trial never comes up, as often as there are tries. */
  failTrial(slots: Slots, tries: number): Promise<void>;
  release(version: string): Promise<Release>;
  /** Larger than a slot. */
  large(): Promise<Release>;
  holds(slot: SlotName, release: Release): Promise<boolean>;
  /** Flips a bit of what the slot holds. */
  damage(slot: SlotName): Promise<void>;
  /** The boot selector cannot be read any more. */
  damageSelector(): Promise<void>;
  /** The copy written last is torn; absent where there is only one. */
  tearSelector?(): Promise<void>;
  /** Everything on its disk. */
  contents(): Promise<Record<string, string>>;
};

export type Adapter = { name: string; missing: string | undefined; make: () => Promise<SlotsRig> };

const chosen = async (slots: Slots): Promise<SlotName> => {
  const found = await slots.inspect();
  if (!found.ok) throw new Error(found.message);
  const { active, trial } = found.view;
  return trial !== null && trial.triesLeft > 0 ? trial.slot : active!;
};
const damageCopies = async (dir: string): Promise<void> => {
  const there = await readdir(dir);
  for (const copy of COPIES) if (there.includes(copy)) await flipByte(join(dir, copy), 30);
};

const directories = async (): Promise<SlotsRig> => {
  const SLOT_BYTES_MAX = 60_000;
  const { dir, pairDir, supervisor, reopen, release } = await pair({ slotBytesMax: SLOT_BYTES_MAX });
  const isWhole = async (slot: SlotName, { manifest: { version } }: Release): Promise<boolean> => {
    const at = (path: string): Promise<string> =>
      readFile(join(slotFolder(pairDir, slot), path), 'latin1').catch(() => '');
    return (
      (await at('app.js')) === `console.log("${version}")` &&
      (await at('lib/deep/data')) === Buffer.alloc(50_000, version).toString('latin1') &&
      (await at('etc/settings')) === `settings of ${version}`
    );
  };
  return {
    open: (cut) => {
      supervisor.application = null;
      return reopen(cut);
    },
    powerOn: chosen,
    failTrial: async (_slots, tries) => {
      for (let boot = 0; boot < tries; boot += 1) {
        supervisor.application = null;
        await (await reopen()).boot();
      }
    },
    release,
    large: async () => {
      const made = await release('9.0.0');
      const [tree, file] = made.manifest.artifacts;
      const bytes = Buffer.alloc(SLOT_BYTES_MAX + 1);
      await writeFile(made.fetched[1]!.file, bytes);
      const larger = { ...file!, bytes: bytes.length, sha256: Sha256.parse(sha256(bytes)) };
      return { ...made, manifest: { ...made.manifest, artifacts: [tree!, larger] } };
    },
    holds: isWhole,
    damage: (slot) => flipByte(join(slotFolder(pairDir, slot), 'lib/deep/data'), 40_000),
    damageSelector: () => damageCopies(pairDir),
    tearSelector: async () => flipByte(await newestSelector(pairDir), 20),
    contents: () => snapshot(dir),
  };
};

const image = async (makeRig: () => Promise<Rig>): Promise<SlotsRig> => {
  const device = await imagePair(await makeRig());
  return {
    open: device.open,
    powerOn: () => device.powerOn(),
    failTrial: async (slots, tries) => {
      // A Raspberry Pi boots what is committed in between, whose agent tries again.
      await slots.boot();
      for (let boot = 0; boot < tries; boot += 1) {
        await device.powerOn();
        if (device.settings['kind'] !== 'raspberry-pi') continue;
        await device.powerOn();
        await (await device.open()).boot();
      }
      await device.powerOn();
    },
    release: (version) => device.release(version),
    large: () => device.release('9.0.0', {}, SLOT_BYTES + 1),
    holds: async (slot, { fetched }) => {
      const whole = await readFile(fetched[0]!.file);
      return (await readFile(device.files[slot])).subarray(0, whole.length).equals(whole);
    },
    damage: (slot) => flipByte(device.files[slot], 1_234_567),
    damageSelector: () => device.damage(),
    ...(device.tear === undefined ? {} : { tearSelector: () => device.tear!() }),
    contents: () => snapshot(device.dir),
  };
};

/** `lacks`: the installer does not know these verbs. */
const delegate = async (lacks: Verb[]): Promise<SlotsRig> => {
  const target = await mcuPair();
  for (const verb of lacks) await target.before(verb, 'exit 64');
  const bank = (slot: SlotName): string => join(target.dir, 'mcu', `bank-${slot}`);
  return {
    open: target.open,
    powerOn: chosen,
    failTrial: async (slots) => {
      await target.before('boot', `if grep -q never-starts "$MCU/bank-$2"; then exit 1; fi`);
      const { slot } = ((await slots.inspect()) as Extract<Awaited<ReturnType<Slots['inspect']>>, { ok: true }>).view
        .trial!;
      await writeFile(bank(slot), 'never-starts');
      await (await target.open()).boot();
    },
    release: (version) => target.release(version),
    large: () => target.release('9.0.0', '', 2 * 1024 * 1024),
    holds: async (slot, { fetched }) => (await readFile(bank(slot))).equals(await readFile(fetched[0]!.file)),
    damage: (slot) => flipByte(bank(slot), 100_000),
    damageSelector: () => damageCopies(target.records),
    tearSelector: async () => flipByte(await newestSelector(target.records), 20),
    contents: async () => {
      const all = Object.entries(await snapshot(target.dir));
      return Object.fromEntries(all.filter(([file]) => !file.endsWith('.asked')));
    },
  };
};

const uboot = ['fw_printenv', 'fw_setenv'].find((tool) => !hasTool(tool));

export const ADAPTERS: readonly Adapter[] = [
  { name: 'directories', missing: undefined, make: directories },
  { name: 'image, U-Boot', missing: uboot, make: () => image(() => ubootRig('rauc')) },
  { name: 'image, GRUB', missing: undefined, make: () => image(() => grubRig(OWN_ACCESS)) },
  { name: 'image, Raspberry Pi', missing: undefined, make: () => image(raspberryPiRig) },
  { name: 'image, systemd-boot', missing: undefined, make: () => image(systemdBootRig) },
  { name: 'delegate, the script of docs/examples', missing: undefined, make: () => delegate([]) },
  {
    name: 'delegate, an installer that knows only install, verify and boot',
    missing: undefined,
    make: () => delegate(['inspect', 'prepare', 'activate', 'commit', 'revert']),
  },
];

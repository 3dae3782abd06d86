/**
 * An image pair in files, its boot selector, and releases to put into it; power is cut and comes back as the test says.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pino } from 'pino';
import { SlotsConfig } from '#agent/config/slots-config.ts';
import type { SlotName, Slots } from '#agent/domain/slots.ts';
import { openImageSlots } from '#agent/slots/image.ts';
import { Id } from '#shared/ids.ts';
import { Manifest } from '#shared/manifest.ts';
import type { Rig } from './selectors/rigs.ts';
import { type Release, sha256 } from './slot-pair.ts';

export const SLOT_BYTES = 3 * 1024 * 1024;
const COMPATIBLE = Id.parse('gw');

export type ImagePairRig = Awaited<ReturnType<typeof imagePair>>;

export const imagePair = async (rig: Rig) => {
  const { dir } = rig;
  const files = { a: join(dir, 'slot-a'), b: join(dir, 'slot-b') };
  const [commandLine, bootId, reboots] = ['cmdline', 'boot_id', 'reboots'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ];
  const records = join(dir, 'records');
  await mkdir(records);
  await writeFile(files.a, Buffer.alloc(SLOT_BYTES, 'as it left the factory '));
  await writeFile(files.b, Buffer.alloc(SLOT_BYTES));
  await writeFile(reboots, '');
  const config = SlotsConfig.parse({
    kind: 'image',
    ...files,
    selector: rig.settings,
    running: { by: 'command-line', file: commandLine },
    reboot: ['sh', '-c', `echo reboot >> '${reboots}'`],
    rebootMs: 100,
    bootId,
  });
  if (config.kind !== 'image') throw new Error('no images');
  let boots = 0;

  const open = (crashPoint?: (name: string) => void): Promise<Slots> =>
    openImageSlots({
      config,
      dir: records,
      compatible: COMPATIBLE,
      selector: rig.open(),
      log: pino({ level: 'silent' }),
      crashPoint: crashPoint ?? (() => undefined),
    });
  /** A boot: the loader chooses, the system comes up, and an agent with nothing in memory. */
  const powerOn = async (armed = false): Promise<SlotName> => {
    const slot = await rig.powerOn(armed);
    boots += 1;
    await writeFile(commandLine, `BOOT_IMAGE=/vmlinuz root=/dev/sda2 sluice.slot=${slot} quiet\n`);
    await writeFile(bootId, `00000000-0000-0000-0000-${String(boots).padStart(12, '0')}\n`);
    return slot;
  };
  const rebootsAsked = async (): Promise<number> => (await readFile(reboots, 'utf8')).split('\n').length - 1;

  /** An image as it lies on the device after fetching. */
  const release = async (version: string, more: object = {}, bytes = 2_000_000): Promise<Release> => {
    const file = join(dir, `image-${version}`);
    const image = Buffer.alloc(bytes, `image ${version} `);
    await writeFile(file, image);
    const manifest = Manifest.parse({
      format: 1,
      product: 'gateway',
      version,
      compatible: COMPATIBLE,
      securityCounter: 3,
      artifacts: [{ name: 'rootfs', bytes, sha256: sha256(image), install: { kind: 'image' } }],
      ...more,
    });
    return { manifest, digest: sha256(JSON.stringify(manifest)), fetched: [{ name: 'rootfs', file }] };
  };
  await powerOn();
  return { ...rig, files, config, records, open, powerOn, rebootsAsked, release };
};

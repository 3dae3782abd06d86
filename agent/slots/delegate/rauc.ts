/**
 * RAUC's slots: bundles are installed by RAUC, which also tells the boot loader; the agent decides when, watches the
 * trial, and reads back.
 */
import { realpath } from 'node:fs/promises';
import type { RaucConfig } from '#agent/config/delegate-config.ts';
import type { SlotName, Slots } from '#agent/domain/slots.ts';
import type { Artifact } from '#shared/manifest.ts';
import { openBootSlots } from '../boot-slots.ts';
import { type Filling, type Refused, refuse } from '../image-pair.ts';
import type { ImageRecord } from '../image-record.ts';
import { SelectorFailed } from '../selectors/selector.ts';
import type { DelegateOptions } from './delegate-options.ts';
import { delegatedTo, isAsFetched } from './delegated.ts';
import { openInstaller } from './installer.ts';
import { type RaucClient, raucClient } from './rauc-client.ts';
import { raucSelector } from './rauc-selector.ts';
import { compareStored } from './stored.ts';

export const openRaucSlots = async (options: DelegateOptions<RaucConfig>): Promise<Slots> => {
  const { config } = options;
  const dir = await realpath(options.dir);
  const client = raucClient(config, await openInstaller({ ...options, dir }));
  return openBootSlots({
    ...options,
    dir,
    selector: raucSelector({ client, dir, bootIdFile: config.bootId }),
    runningSlot: () => sayNothing(async () => (await client.status()).booted),
    filling: raucFilling(config, client),
  });
};

const sayNothing = async <T>(act: () => Promise<T>): Promise<T | null> => {
  try {
    return await act();
  } catch (error) {
    if (error instanceof SelectorFailed) return null;
    throw error;
  }
};

const raucFilling = (config: RaucConfig, client: RaucClient): Filling => ({
  inPlace: false,
  artifactOf: (manifest) => delegatedTo(config.handler, manifest),
  check: async () => refusing(async () => ({ ok: true, status: await client.status() })),
  fill: async (slot, artifact, source, signal) =>
    refusing(async () => {
      const same = await isAsFetched(source, artifact);
      if (!same.ok) return same;
      const installed = await client.install(source, { bytes: artifact.bytes, signal });
      if (!installed.ok) return refuse(installed.why, 'WRITE_FAILED');
      const { primary } = await client.status();
      if (primary === slot)
        return refuse('RAUC has activated what it installed: its system.conf must say activate-installed=false');
      return readStored(client, slot, artifact, source);
    }),
  compare: (_slot, record, signal) => compareStored(record, signal),
});

const refusing = async <T extends { ok: true }>(act: () => Promise<T | Refused>): Promise<T | Refused> => {
  try {
    return await act();
  } catch (error) {
    if (error instanceof SelectorFailed) return refuse(error.message);
    throw error;
  }
};

/** Packed images are unpacked into the slot: only RAUC knows what has become of them. */
const UNPACKED = /\.(tar(\.\w+)?|tgz|caidx|catar|squashfs-lzo)$/;

/**
 * The images of the bundle, in the slots of this side: what the signed bundle says about them is what must be on the
 * disk.
 */
const readStored = async (
  client: RaucClient,
  slot: SlotName,
  artifact: Artifact,
  bundle: string,
): Promise<{ ok: true; stored: NonNullable<ImageRecord['stored']> } | Refused> => {
  const { names, all } = await client.status();
  const mine = all.filter(({ name, parent }) => name === names[slot] || parent === names[slot]);
  const stored = [];
  let here = 0;
  for (const image of await client.images(bundle)) {
    const target = mine.find((one) => one.class === image.class);
    if (target === undefined) continue;
    here += 1;
    if (UNPACKED.test(image.filename)) continue;
    stored.push({
      file: await realpath(target.device),
      bytes: image.bytes,
      sha256: image.sha256,
    });
  }
  // RAUC is content to install a bundle of which nothing is for this side; what it held before would then run in its
  // name.
  if (here === 0) return refuse(`${artifact.name} has no image for the slots of ${names[slot]}`, 'WRITE_VERIFY');
  const compared = await compareStored({ artifact, stored });
  return compared.ok ? { ok: true, stored } : { ...compared, code: 'WRITE_VERIFY' };
};

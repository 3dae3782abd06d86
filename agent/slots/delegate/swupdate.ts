/** SWUpdate's slots: a .swu is installed by SWUpdate into the copy that stands by; one of the agent's own boot selectors decides what boots. */
import { realpath } from 'node:fs/promises';
import { openStoredReader } from '#agent/read-back.ts';
import { storageRefusal } from '#agent/system-error.ts';
import { Sha256 } from '#shared/ids.ts';
import { openBootSlots } from '../boot-slots.ts';
import { checkDevice, type SlotDevice } from '../image-device.ts';
import { type Filling, type Refused, refuse } from '../image-pair.ts';
import type { ImageRecord } from '../image-record.ts';
import { findRunningSlot } from '../running-slot.ts';
import { openSelector } from '../selectors/open-selector.ts';
import type { Slots } from '../slots.ts';
import type { SwupdateConfig } from './delegate-config.ts';
import type { DelegateOptions } from './delegate-options.ts';
import { delegatedTo, isAsFetched } from './delegated.ts';
import { type Installer, openInstaller } from './installer.ts';
import { compareStored } from './stored.ts';

export const openSwupdateSlots = async (options: DelegateOptions<SwupdateConfig>): Promise<Slots> => {
  const { config } = options;
  const dir = await realpath(options.dir);
  const installer = await openInstaller({ ...options, dir });
  return openBootSlots({
    ...options,
    dir,
    selector: openSelector(config.selector, dir),
    runningSlot: () => findRunningSlot(config),
    filling: swupdateFilling(config, installer),
  });
};

const swupdateFilling = (config: SwupdateConfig, installer: Installer): Filling => ({
  inPlace: false,
  artifactOf: (manifest) => delegatedTo(config.handler, manifest),
  check: async (slot) => {
    const checked = await checkDevice(config[slot]);
    return checked.ok ? { ok: true } : checked;
  },
  fill: async (slot, artifact, source, signal) => {
    const checked = await checkDevice(config[slot]);
    if (!checked.ok) return checked;
    const same = await isAsFetched(source, artifact);
    if (!same.ok) return same;
    // Neither of its two markers in the boot loader's environment: that is the selector's.
    const words = ['-M', '-m', '-e', config.select[slot], '-i', source];
    const end = await installer.ask({ kind: 'install', words, bytes: artifact.bytes, signal }, () => false);
    if (end.exitCode !== 0) return refuse(`swupdate: ${end.why}: ${end.said.slice(-500)}`, 'WRITE_FAILED');
    return digestOf(checked.device);
  },
  compare: (_slot, record) => compareStored(record),
});

/** It has checked what it wrote against sw-description, which only it can read; that this stays so can be seen from outside. */
const digestOf = async ({
  file,
}: SlotDevice): Promise<{ ok: true; stored: NonNullable<ImageRecord['stored']> } | Refused> => {
  try {
    const { bytes, sha256 } = await openStoredReader().hash(file);
    return { ok: true, stored: [{ file, bytes, sha256: Sha256.parse(sha256) }] };
  } catch (error) {
    return storageRefusal(error, `${file} can not be read back`);
  }
};

/**
 * SWUpdate's slots: a .swu is installed by SWUpdate into the copy that stands by; one of the agent's own boot selectors
 * decides what boots.
 */
import { realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { SwupdateConfig } from '#agent/config/delegate-config.ts';
import { openStoredReader } from '#agent/disk/read-back.ts';
import type { SlotName, Slots } from '#agent/domain/slots.ts';
import { storageRefusal } from '#agent/process/system-error.ts';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { Sha256 } from '#shared/ids.ts';
import type { Artifact } from '#shared/manifest.ts';
import { openBootSlots } from '../boot-slots.ts';
import { checkDevice, type SlotDevice } from '../image-device.ts';
import { type Filling, type Refused, refuse } from '../image-pair.ts';
import type { ImageRecord } from '../image-record.ts';
import { findRunningSlot } from '../running-slot.ts';
import { seal, unseal } from '../sealed.ts';
import { openSelector } from '../selectors/open-selector.ts';
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
    filling: swupdateFilling(config, installer, dir),
  });
};

const swupdateFilling = (config: SwupdateConfig, installer: Installer, dir: string): Filling => ({
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
    const before = await contentBefore(dir, slot, artifact, checked.device);
    if (!before.ok) return before;
    // Neither of its two markers in the boot loader's environment: that is the selector's.
    const words = ['-M', '-m', '-e', config.select[slot], '-i', source];
    const end = await installer.ask({ kind: 'install', words, bytes: artifact.bytes, signal }, () => false);
    if (end.exitCode !== 0) return refuse(`swupdate: ${end.why}: ${end.said.slice(-500)}`, 'WRITE_FAILED');
    const after = await digestOf(checked.device);
    if (!after.ok || after.stored[0].sha256 !== before.sha256) return after;
    // A software set or a handler for something else than this slot: what it held before would run in this release's
    // name.
    return refuse(`swupdate ended well, and left ${checked.device.file} as it was before`, 'WRITE_VERIFY');
  },
  compare: (_slot, record, signal) => compareStored(record, signal),
});

/**
 * It has checked what it wrote against sw-description, which only it can read; that this stays so can be seen from
 * outside.
 */
const digestOf = async ({ file }: SlotDevice): Promise<{ ok: true; stored: [Stored] } | Refused> => {
  try {
    const { bytes, sha256 } = await openStoredReader().hash(file);
    return { ok: true, stored: [{ file, bytes, sha256: Sha256.parse(sha256) }] };
  } catch (error) {
    return storageRefusal(error, `${file} cannot be read back`);
  }
};

type Stored = NonNullable<ImageRecord['stored']>[number];
const Before = z.object({ artifact: Sha256, sha256: Sha256 });

/**
 * What the slot held before this artifact was first installed there: kept, since a later attempt may find it installed
 * already.
 */
const contentBefore = async (
  dir: string,
  slot: SlotName,
  { sha256: artifact }: Artifact,
  device: SlotDevice,
): Promise<{ ok: true; sha256: Sha256 } | Refused> => {
  const file = join(dir, `${slot}.before.json`);
  try {
    const bytes = await readFileIfThere(file);
    const kept = bytes === undefined ? undefined : unseal(bytes, Before);
    if (kept?.artifact === artifact) return { ok: true, sha256: kept.sha256 };
    const found = await digestOf(device);
    if (!found.ok) return found;
    const { sha256 } = found.stored[0];
    await writeFileDurably(file, seal({ artifact, sha256 }), 0o600);
    return { ok: true, sha256 };
  } catch (error) {
    return storageRefusal(error, `${file} cannot be written`);
  }
};

/** The image adapter: two partitions or files, each filled with a raw image as it was fetched. */
import type { Id } from '#shared/ids.ts';
import type { ImageConfig } from '../config/slots-config.ts';
import type { Slots } from '../domain/slots.ts';
import type { Log } from '../log.ts';
import { openBootSlots } from './boot-slots.ts';
import { checkDevice, findDevice, verifyImage, writeImage } from './image-device.ts';
import { type Filling, refuse } from './image-pair.ts';
import { findRunningSlot } from './running-slot.ts';
import type { ImageSelector } from './selectors/selector.ts';

export type ImageSlotsOptions = {
  config: ImageConfig;
  /** Records are kept here; the folder exists, and is on no slot. */
  dir: string;
  compatible: Id;
  selector: ImageSelector;
  log: Log;
  /** Called after every durable step; tests cut the power there. Default agent/process/crash-point.ts. */
  crashPoint?: (name: string) => void;
};

/** Opens the pair, see openBootSlots. */
export const openImageSlots = ({ config, ...options }: ImageSlotsOptions): Promise<Slots> =>
  openBootSlots({
    ...options,
    runningSlot: () => findRunningSlot(config),
    filling: imageFilling(config),
    config,
  });

const imageFilling = (config: ImageConfig): Filling => ({
  inPlace: true,
  artifactOf: (manifest) => {
    const [artifact, ...more] = manifest.artifacts;
    if (artifact?.install.kind === 'image' && more.length === 0) return { ok: true, artifact };
    return refuse(`${manifest.product} ${manifest.version} is not an image, and this device boots images`);
  },
  check: async (slot, artifact) => {
    const checked = await checkDevice(config[slot], artifact);
    return checked.ok ? { ok: true, file: checked.device.file } : checked;
  },
  fill: async (slot, artifact, source, signal) => {
    const checked = await checkDevice(config[slot], artifact);
    return checked.ok ? writeImage(checked.device, artifact, source, signal) : checked;
  },
  compare: async (slot, { artifact }, signal) => {
    const found = await findDevice(config[slot]);
    return found.ok ? verifyImage(found.device, artifact, signal) : found;
  },
  seed: async (slot) => {
    const found = await findDevice(config[slot]);
    return found.ok ? found.device.file : undefined;
  },
});

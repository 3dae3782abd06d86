/**
 * The image adapter: an A/B pair that boots the whole device, two partitions or files each filled with a raw image. A boot loader decides which one boots, and
 * counts trials down; `boot` reboots. What a slot holds is kept in a record beside, and after a restart is not believed without reading the slot back.
 */
import { readFile } from 'node:fs/promises';
import { type Id, Sha256 } from '#shared/ids.ts';
import type { Artifact, Manifest } from '#shared/manifest.ts';
import { crashPoint } from '../crash-point.ts';
import type { Log } from '../log.ts';
import { booting } from './image-boot.ts';
import { checkDevice, findDevice, type SlotDevice, verifyImage, writeImage } from './image-device.ts';
import { attempt, DONE, type ImagePair, type Refused, refuse, type Selected, select } from './image-pair.ts';
import {
  type ImageRecord,
  readImageRecord,
  readTrialNote,
  removeImageRecord,
  writeImageRecord,
} from './image-record.ts';
import type { ImageSelector } from './selectors/selector.ts';
import type { FetchedArtifact, SlotContent, SlotName, SlotResult, Slots } from './slots.ts';
import type { ImageConfig } from './slots-config.ts';

export type ImageSlotsOptions = {
  config: ImageConfig;
  /** Records are kept here; the folder exists, and is on no slot. */
  dir: string;
  compatible: Id;
  selector: ImageSelector;
  log: Log;
  /** Called after every durable step; tests cut the power there. Default agent/crash-point.ts. */
  crashPoint?: (name: string) => void;
};

/** Opens the pair. Writes nothing; what is not fit is said in the log, and then nothing can be installed. */
export const openImageSlots = async (options: ImageSlotsOptions): Promise<Slots> => {
  const { selector, log, config } = options;
  for (const { grave, sentence } of await selector.check()) {
    if (grave) log.error({ event: 'boot-selector-unfit' }, `nothing can be installed: ${sentence}`);
    else log.warn({ event: 'boot-selector-doubtful' }, sentence);
  }
  const bootId = (await readFile(config.bootId, 'utf8').catch(() => '')).trim();
  const pair: ImagePair = { ...options, bootId, cut: options.crashPoint ?? crashPoint, verified: new Map() };
  return {
    ...writing(pair),
    ...booting(pair),
    inspect: () => inspect(pair),
    seeds: async () => {
      const selected = await select(pair);
      if (!selected.ok) return [];
      const { active } = selected.selection;
      const [record, found] = [await readImageRecord(pair.dir, active), await findDevice(config[active])];
      return record?.state === 'bootable' && found.ok ? [{ file: found.device.file, artifact: record.artifact }] : [];
    },
    // The system starts and stops its own applications.
    stop: async () => undefined,
    workFolder: () => pair.dir,
    process: null,
  };
};

const inspect = async (pair: ImagePair): ReturnType<Slots['inspect']> => {
  const selected = await select(pair);
  if (!selected.ok) return selected;
  const { active, trial } = selected.selection;
  const [a, b] = [await readImageRecord(pair.dir, 'a'), await readImageRecord(pair.dir, 'b')];
  const deployment = (await readTrialNote(pair.dir))?.trial?.deployment ?? 'unknown';
  const slots = { a: contentOf(a), b: contentOf(b) };
  return { ok: true, view: { active, trial: trial === null ? null : { ...trial, deployment }, slots } };
};

const contentOf = (record: ImageRecord | undefined): SlotContent =>
  record?.state === 'bootable'
    ? { state: 'bootable', running: record.running, securityCounter: record.securityCounter }
    : { state: 'unbootable' };

/** Everything that writes into a slot goes through here: never the slot that boots next or runs now. */
const standby = async (pair: ImagePair, slot: SlotName): Promise<Selected | Refused> => {
  const selected = await select(pair);
  if (!selected.ok) return selected;
  if (selected.selection.active === slot) return refuse(`slot ${slot} is the active one`);
  if (selected.running === slot) return refuse(`slot ${slot} is running`);
  // Nobody can say then that this is not the one that runs.
  if (selected.running === null) return refuse('nothing says which slot runs (see "running" in the configuration)');
  return selected;
};

/** The one image of the manifest, if it is for this device. */
const imageOf = (pair: ImagePair, manifest: Manifest): { ok: true; artifact: Artifact } | Refused => {
  if (manifest.compatible !== pair.compatible)
    return refuse(`this is a ${pair.compatible}, and the image for a ${manifest.compatible}`, 'INCOMPATIBLE_HARDWARE');
  const [artifact, ...more] = manifest.artifacts;
  if (artifact?.install.kind === 'image' && more.length === 0) return { ok: true, artifact };
  return refuse(`${manifest.product} ${manifest.version} is not an image, and this device boots images`);
};

type Target = { ok: true; artifact: Artifact; device: SlotDevice };

/** The device and the image for it, all refusals before any write (faults 19). */
const targetOf = async (pair: ImagePair, slot: SlotName, manifest: Manifest): Promise<Target | Refused> => {
  const selected = await standby(pair, slot);
  if (!selected.ok) return selected;
  const image = imageOf(pair, manifest);
  if (!image.ok) return image;
  const checked = await checkDevice(pair.config[slot], image.artifact);
  return checked.ok ? { ...checked, artifact: image.artifact } : checked;
};

const writing = (pair: ImagePair): Required<Pick<Slots, 'prepare' | 'place' | 'write' | 'verify'>> => ({
  prepare: async (slot, manifest) => {
    const selected = await standby(pair, slot);
    if (!selected.ok) return selected;
    const fits = manifest === undefined ? await checkDevice(pair.config[slot]) : await targetOf(pair, slot, manifest);
    if (!fits.ok) return fits;
    return attempt(`slot ${slot} can not be made unbootable`, async () => {
      pair.verified.delete(slot);
      await pair.selector.disable(slot);
      pair.cut('slots.prepare.unbootable');
      await removeImageRecord(pair.dir, slot);
      pair.cut('slots.prepare.emptied');
    });
  },
  place: async (slot, manifest) => {
    const target = await targetOf(pair, slot, manifest);
    if (!target.ok) return target;
    const record = await readImageRecord(pair.dir, slot);
    if (record !== undefined) return refuse(`slot ${slot} holds ${record.running.version} and has not been prepared`);
    return { ok: true, file: target.device.file };
  },
  write: (slot, manifest, manifestSha256, fetched) => write(pair, slot, { manifest, manifestSha256, fetched }),
  verify: (slot) => verify(pair, slot),
});

type Writing = { manifest: Manifest; manifestSha256: string; fetched: FetchedArtifact[] };

const write = async (pair: ImagePair, slot: SlotName, what: Writing): Promise<SlotResult> => {
  const { manifest, manifestSha256, fetched } = what;
  const target = await targetOf(pair, slot, manifest);
  if (!target.ok) return target;
  const known = await readImageRecord(pair.dir, slot);
  // Written already, before a restart: `verify` says whether it is still as it was written.
  if (known?.running.manifest === manifestSha256) return DONE;
  if (known !== undefined) return refuse(`slot ${slot} holds ${known.running.version} and has not been prepared`);
  const source = fetched.find(({ name }) => name === target.artifact.name)?.file;
  if (source === undefined) return refuse(`${target.artifact.name} has not been fetched`);
  const written = await writeImage(target.device, target.artifact, source);
  if (!written.ok) return written;
  pair.cut('slots.write.content');
  const { product, version, securityCounter } = manifest;
  const running = { product, version, manifest: Sha256.parse(manifestSha256), slot };
  return attempt(`the record of slot ${slot} can not be written`, async () => {
    const { artifact } = target;
    await writeImageRecord(pair.dir, { format: 1, state: 'written', running, securityCounter, artifact });
    pair.cut('slots.write.recorded');
  });
};

const verify = async (pair: ImagePair, slot: SlotName): Promise<SlotResult> => {
  const selected = await select(pair);
  if (!selected.ok) return selected;
  const record = await readImageRecord(pair.dir, slot);
  if (record === undefined) return refuse(`slot ${slot} has not been written`, 'WRITE_VERIFY');
  const found = await findDevice(pair.config[slot]);
  const compared = found.ok ? await verifyImage(found.device, record.artifact) : found;
  const standsBy = selected.selection.active !== slot && selected.running !== slot;
  const marked = await attempt(`slot ${slot} can not be marked`, async () => {
    if (compared.ok) {
      pair.verified.set(slot, record.running.manifest);
      if (record.state !== 'bootable') await writeImageRecord(pair.dir, { ...record, state: 'bootable' });
    } else if (standsBy) {
      // Nothing unverified is ever bootable, whatever it was before. The active slot is better than none.
      await pair.selector.disable(slot);
      await removeImageRecord(pair.dir, slot);
    }
    pair.cut('slots.verify.marked');
  });
  return compared.ok ? marked : compared;
};

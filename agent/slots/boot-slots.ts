/**
 * An A/B pair that boots the whole device. A boot loader decides which slot boots, and counts trials down; `boot`
 * reboots. What a slot holds is kept in a record beside, and after a restart is not believed without reading the slot
 * back. How a slot is filled is the adapter's own.
 */
import { readFile } from 'node:fs/promises';
import { type Id, Sha256 } from '#shared/ids.ts';
import type { Artifact, Manifest } from '#shared/manifest.ts';
import type { FetchedArtifact, SlotName, SlotResult, Slots } from '../domain/slots.ts';
import type { Log } from '../log.ts';
import { crashPoint } from '../process/crash-point.ts';
import { booting } from './image-boot.ts';
import {
  attempt,
  type BootPair,
  DONE,
  type Filling,
  isEmpty,
  type Rebooting,
  type Refused,
  refuse,
  type Selected,
  select,
} from './image-pair.ts';
import { contentOf, readImageRecord, readTrialNote, removeImageRecord, writeImageRecord } from './image-record.ts';
import type { ImageSelector } from './selectors/selector.ts';

export type BootSlotsOptions = {
  /** Records are kept here; the folder exists, and is on no slot. */
  dir: string;
  compatible: Id;
  selector: ImageSelector;
  runningSlot: () => Promise<SlotName | null>;
  filling: Filling;
  config: Rebooting;
  log: Log;
  /** Called after every durable step; tests cut the power there. Default agent/process/crash-point.ts. */
  crashPoint?: (name: string) => void;
};

/** Opens the pair. Writes nothing; what is not fit is said in the log, and then nothing can be installed. */
export const openBootSlots = async (options: BootSlotsOptions): Promise<Slots> => {
  const { selector, log, filling } = options;
  for (const { grave, sentence } of await selector.check()) {
    if (grave) log.error({ event: 'boot-selector-unfit' }, `nothing can be installed: ${sentence}`);
    else log.warn({ event: 'boot-selector-doubtful' }, sentence);
  }
  const bootId = (await readFile(options.config.bootId, 'utf8').catch(() => '')).trim();
  const pair: BootPair = { ...options, bootId, cut: options.crashPoint ?? crashPoint, verified: new Map() };
  return {
    ...writing(pair),
    ...booting(pair),
    inspect: () => inspect(pair),
    seeds: async () => {
      const selected = await select(pair);
      if (!selected.ok || filling.seed === undefined) return [];
      const { active } = selected.selection;
      const [record, file] = [await readImageRecord(pair.dir, active), await filling.seed(active)];
      return record?.state === 'bootable' && file !== undefined ? [{ file, artifact: record.artifact }] : [];
    },
    // The system starts and stops its own applications.
    stop: async () => undefined,
    workFolder: () => pair.dir,
    process: null,
  };
};

const inspect = async (pair: BootPair): ReturnType<Slots['inspect']> => {
  const selected = await select(pair);
  if (!selected.ok) return selected;
  const { active, trial } = selected.selection;
  const [a, b] = [await readImageRecord(pair.dir, 'a'), await readImageRecord(pair.dir, 'b')];
  const deployment = (await readTrialNote(pair.dir))?.trial?.deployment ?? 'unknown';
  const slots = { a: contentOf(a), b: contentOf(b) };
  return { ok: true, view: { active, trial: trial === null ? null : { ...trial, deployment }, slots } };
};

/** Everything that writes into a slot goes through here: never the slot that boots next or runs now. */
const standby = async (pair: BootPair, slot: SlotName): Promise<Selected | Refused> => {
  const selected = await select(pair);
  if (!selected.ok) return selected;
  if (selected.selection.active === slot) return refuse(`slot ${slot} is the active one`);
  if (selected.running === slot) return refuse(`slot ${slot} is running`);
  // No one can say then that this is not the one that runs.
  if (selected.running === null) return refuse('nothing says which slot runs (see "running" in the configuration)');
  return selected;
};

type Target = { ok: true; artifact: Artifact; file?: string };

/** Where the artifact goes and which it is, all refusals before any write (faults 19). */
const targetOf = async (pair: BootPair, slot: SlotName, manifest: Manifest): Promise<Target | Refused> => {
  const selected = await standby(pair, slot);
  if (!selected.ok) return selected;
  if (manifest.compatible !== pair.compatible)
    return refuse(
      `this is a ${pair.compatible}, and the release for a ${manifest.compatible}`,
      'INCOMPATIBLE_HARDWARE',
    );
  const found = pair.filling.artifactOf(manifest);
  if (!found.ok) return found;
  const empty = isEmpty(found.artifact);
  if (empty !== undefined) return empty;
  const checked = await pair.filling.check(slot, found.artifact);
  return checked.ok ? { ...checked, artifact: found.artifact } : checked;
};

const writing = (pair: BootPair): Pick<Slots, 'prepare' | 'place' | 'write' | 'verify'> => ({
  prepare: async (slot, manifest) => {
    const selected = await standby(pair, slot);
    if (!selected.ok) return selected;
    const fits = manifest === undefined ? await pair.filling.check(slot) : await targetOf(pair, slot, manifest);
    if (!fits.ok) return fits;
    return attempt(`slot ${slot} cannot be made unbootable`, async () => {
      pair.verified.delete(slot);
      await pair.selector.disable(slot);
      pair.cut('slots.prepare.unbootable');
      await removeImageRecord(pair.dir, slot);
      pair.cut('slots.prepare.emptied');
    });
  },
  place: async (slot, manifest) => {
    if (!pair.filling.inPlace) return undefined;
    const target = await targetOf(pair, slot, manifest);
    if (!target.ok) return target;
    const record = await readImageRecord(pair.dir, slot);
    if (record !== undefined) return refuse(`slot ${slot} holds ${record.running.version} and has not been prepared`);
    return target.file === undefined ? undefined : { ok: true, file: target.file };
  },
  write: (slot, manifest, manifestSha256, fetched, signal = new AbortController().signal) =>
    write(pair, slot, { manifest, manifestSha256, fetched }, signal),
  verify: (slot, signal) => verify(pair, slot, signal),
});

type Writing = { manifest: Manifest; manifestSha256: string; fetched: FetchedArtifact[] };

const write = async (pair: BootPair, slot: SlotName, what: Writing, signal: AbortSignal): Promise<SlotResult> => {
  const { manifest, manifestSha256, fetched } = what;
  const target = await targetOf(pair, slot, manifest);
  if (!target.ok) return target;
  const known = await readImageRecord(pair.dir, slot);
  // Written already, before a restart: `verify` says whether it is still as it was written.
  if (known?.running.manifest === manifestSha256) return DONE;
  if (known !== undefined) return refuse(`slot ${slot} holds ${known.running.version} and has not been prepared`);
  const source = fetched.find(({ name }) => name === target.artifact.name)?.file;
  if (source === undefined) return refuse(`${target.artifact.name} has not been fetched`);
  const written = await pair.filling.fill(slot, target.artifact, source, signal);
  if (!written.ok) return written;
  pair.cut('slots.write.content');
  const { product, version, securityCounter } = manifest;
  const running = { product, version, manifest: Sha256.parse(manifestSha256), slot };
  return attempt(`the record of slot ${slot} cannot be written`, async () => {
    const stored = written.stored === undefined ? {} : { stored: written.stored };
    const record = {
      format: 1,
      state: 'written',
      running,
      securityCounter,
      artifact: target.artifact,
      ...stored,
    } as const;
    await writeImageRecord(pair.dir, record);
    pair.cut('slots.write.recorded');
  });
};

const verify = async (pair: BootPair, slot: SlotName, signal?: AbortSignal): Promise<SlotResult> => {
  const selected = await select(pair);
  if (!selected.ok) return selected;
  const record = await readImageRecord(pair.dir, slot);
  if (record === undefined) return refuse(`slot ${slot} has not been written`, 'WRITE_VERIFY');
  const compared = await pair.filling.compare(slot, record, signal);
  // Nothing is known of it now.
  if (signal?.aborted === true) return refuse('stopped', 'WRITE_VERIFY');
  const standsBy = selected.selection.active !== slot && selected.running !== slot;
  const marked = await attempt(`slot ${slot} cannot be marked`, async () => {
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

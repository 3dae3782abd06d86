/**
 * Slots behind any command that speaks the protocol of docs/delegate.md: a microcontroller behind a gateway, another
 * vendor's installer. The command does and the agent decides and remembers; whatever the command knows itself
 * (`inspect`) is believed over what the agent remembers.
 */
import { realpath } from 'node:fs/promises';
import type { CommandConfig } from '#agent/config/delegate-config.ts';
import type { FetchedArtifact, SlotName, SlotResult, Slots } from '#agent/domain/slots.ts';
import { crashPoint } from '#agent/process/crash-point.ts';
import { storageRefusal } from '#agent/process/system-error.ts';
import { Sha256 } from '#shared/ids.ts';
import type { Artifact, Manifest } from '#shared/manifest.ts';
import { openBootSelector, type Selection } from '../boot-selector.ts';
import { DONE, isEmpty, type Refused, refuse } from '../image-pair.ts';
import { contentOf, removeImageRecord, writeImageRecord } from '../image-record.ts';
import { booting, change } from './command-boot.ts';
import { askVerb, type CommandPair, type Known, know } from './command-pair.ts';
import type { DelegateOptions } from './delegate-options.ts';
import { delegatedTo, isAsFetched } from './delegated.ts';
import { openInstaller } from './installer.ts';
import type { Told, VerbEnd } from './verbs.ts';

/** Opens the pair, and ends an installer that an agent has left when it was killed. */
export const openCommandSlots = async (options: DelegateOptions<CommandConfig>): Promise<Slots> => {
  const dir = await realpath(options.dir);
  const pair: CommandPair = {
    config: options.config,
    compatible: options.compatible,
    dir,
    installer: await openInstaller({ ...options, dir }),
    selector: openBootSelector(dir),
    cut: options.crashPoint ?? crashPoint,
    told: undefined,
  };
  return {
    ...booting(pair),
    inspect: () => inspect(pair),
    prepare: (slot, manifest) => prepare(pair, slot, manifest),
    write: (slot, manifest, manifestSha256, fetched, signal) =>
      write(pair, slot, { manifest, manifestSha256, fetched, signal }),
    verify: (slot, signal) => verify(pair, slot, signal),
    // What runs behind the installer goes on.
    stop: async () => undefined,
    workFolder: () => dir,
    process: null,
  };
};

const inspect = async (pair: CommandPair): ReturnType<Slots['inspect']> => {
  const known = await know(pair);
  if (!known.ok) return known;
  const { active, trial, records } = known;
  return { ok: true, view: { active, trial, slots: { a: contentOf(records.a), b: contentOf(records.b) } } };
};

/** Everything that writes into a slot goes through here: never the slot that boots next or runs now. */
const standby = async (pair: CommandPair, slot: SlotName): Promise<Known | Refused> => {
  const known = await know(pair);
  if (!known.ok) return known;
  if (known.active === slot) return refuse(`slot ${slot} is the active one`);
  if (known.running === slot) return refuse(`slot ${slot} is running`);
  return known;
};

const fits = (pair: CommandPair, manifest: Manifest): { ok: true; artifact: Artifact } | Refused => {
  const { compatible, config } = pair;
  if (manifest.compatible !== compatible)
    return refuse(`this is a ${compatible}, and the release for a ${manifest.compatible}`, 'INCOMPATIBLE_HARDWARE');
  const found = delegatedTo(config.handler, manifest);
  return (found.ok ? isEmpty(found.artifact) : undefined) ?? found;
};

const prepare = async (pair: CommandPair, slot: SlotName, manifest?: Manifest): Promise<SlotResult> => {
  const known = await standby(pair, slot);
  if (!known.ok) return known;
  const fitting = manifest === undefined ? DONE : fits(pair, manifest);
  if (!fitting.ok) return fitting;
  // A trial of this slot that was abandoned ends here: it must not boot what is about to be written.
  if (known.trial?.slot === slot) {
    const ended = await endAbandoned(pair, known, slot);
    if (!ended.ok) return ended;
  }
  try {
    // The older copy may still name this slot.
    await change(pair, { active: known.active, trial: null }, 'slots.prepare.settled');
    await pair.selector.settle();
    await removeImageRecord(pair.dir, slot);
    pair.cut('slots.prepare.unbootable');
  } catch (error) {
    return storageRefusal(error, `slot ${slot} cannot be made unbootable`);
  }
  const prepared = await askVerb(pair, 'prepare', [slot]);
  if (!prepared.ok) return refuse(prepared.message, prepared.code);
  pair.cut('slots.prepare.emptied');
  return DONE;
};

const endAbandoned = async (pair: CommandPair, { active }: Selection, slot: SlotName): Promise<SlotResult> => {
  const ended = await askVerb(pair, 'revert', [slot]);
  if (!ended.ok) return refuse(ended.message, ended.code);
  return change(pair, { active, trial: null }, 'slots.prepare.forgotten');
};

type Writing = {
  manifest: Manifest;
  manifestSha256: string;
  fetched: FetchedArtifact[];
  signal: AbortSignal | undefined;
};

const write = async (pair: CommandPair, slot: SlotName, what: Writing): Promise<SlotResult> => {
  const { manifest, manifestSha256, fetched, signal } = what;
  const known = await standby(pair, slot);
  if (!known.ok) return known;
  const fitting = fits(pair, manifest);
  if (!fitting.ok) return fitting;
  const { artifact } = fitting;
  const there = known.records[slot]?.running;
  // Written already, before a restart: `verify` says whether it is still as it was written.
  if (there?.manifest === manifestSha256) return DONE;
  if (there !== undefined) return refuse(`slot ${slot} holds ${there.version} and has not been prepared`);
  const source = fetched.find(({ name }) => name === artifact.name)?.file;
  if (source === undefined) return refuse(`${artifact.name} has not been fetched`);
  const same = await isAsFetched(source, artifact);
  if (!same.ok) return same;
  const { product, version, securityCounter } = manifest;
  const environment = { SLUICE_PRODUCT: product, SLUICE_VERSION: version, SLUICE_SHA256: artifact.sha256 };
  const installed = await askVerb(pair, 'install', [slot, source], { environment, bytes: artifact.bytes, signal });
  if (!installed.ok) return refuse(installed.message, installed.code);
  pair.cut('slots.write.content');
  const running = { product, version, manifest: Sha256.parse(manifestSha256), slot };
  try {
    await writeImageRecord(pair.dir, { format: 1, state: 'written', running, securityCounter, artifact });
  } catch (error) {
    return storageRefusal(error, `the record of slot ${slot} cannot be written`);
  }
  pair.cut('slots.write.recorded');
  return DONE;
};

/** That the slot holds it is never taken for granted: the installer reads it back, or says what its slots hold. */
const proven = (compared: VerbEnd, { contents }: Told, slot: SlotName): VerbEnd =>
  !compared.ok || compared.known || typeof contents?.[slot] === 'string'
    ? compared
    : {
        ok: false,
        code: 'WRITE_VERIFY',
        later: false,
        message: 'nothing proves what the slot holds: the installer must know "verify", or say "contents" at "inspect"',
      };

const verify = async (pair: CommandPair, slot: SlotName, signal?: AbortSignal): Promise<SlotResult> => {
  const known = await know(pair);
  if (!known.ok) return known;
  const record = known.records[slot];
  if (record === undefined) return refuse(`slot ${slot} has not been written`, 'WRITE_VERIFY');
  const compared = proven(await askVerb(pair, 'verify', [slot, record.artifact.sha256], { signal }), known.told, slot);
  // Nothing is known of it now.
  if (signal?.aborted === true) return refuse('stopped', 'WRITE_VERIFY');
  try {
    if (compared.ok && record.state !== 'bootable') await writeImageRecord(pair.dir, { ...record, state: 'bootable' });
    // Nothing unverified is ever bootable, whatever it was before. The active slot is better than none.
    const standsBy = known.active !== slot && known.running !== slot;
    if (!compared.ok && !compared.later && standsBy) await removeImageRecord(pair.dir, slot);
  } catch (error) {
    return storageRefusal(error, `slot ${slot} cannot be marked`);
  }
  pair.cut('slots.verify.marked');
  return compared.ok ? DONE : refuse(compared.message, compared.code);
};

/**
 * The directories adapter: an application's A/B pair as two folders, run by the agent's own supervisor. `boot` is its
 * reboot; tries are counted down durably before the application is executed.
 *
 * In `dir`: `a/` and `b/`, nothing but the application's own files; `a.json`, `a.files` and the same for b, what is
 * known of each; `boot.0.json`, `boot.1.json`, the two copies of the boot selector.
 */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Running } from '#shared/deployment.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import type { Manifest } from '#shared/manifest.ts';
import { commandOf } from '../application/agent-file.ts';
import type { Supervisor } from '../application/supervisor.ts';
import type { FileOwner } from '../disk/tree-writer.ts';
import type { FetchedArtifact, SlotContent, SlotName, SlotResult, Slots, SlotsView } from '../domain/slots.ts';
import { crashPoint } from '../process/crash-point.ts';
import { asFarAsPossible, storageRefusal } from '../process/system-error.ts';
import { type BootSelector, openBootSelector, type Selection } from './boot-selector.ts';
import { checkRoom, emptySlot, fitsSlot, matchArtifacts, STOPPED, verifyContent, writeContent } from './content.ts';
import { readSlotRecord, removeSlotRecord, type SlotRecord, slotFolder, writeSlotRecord } from './slot-record.ts';

export { slotFolder } from './slot-record.ts';

export type DirectorySlotsOptions = {
  /** The pair's own folder; nothing else may be kept there. Made if it is not there. */
  dir: string;
  supervisor: Supervisor;
  /** For the application's own data, which survives updates: its `SLUICE_DATA`. Made if it is not there. */
  dataDir?: string;
  /** The most that one slot may take on the disk. Default 8 GiB. */
  slotBytesMax?: number;
  /** The application's user, where that is another than the agent: what not everyone may read is its own. */
  owner?: FileOwner | null;
  /** Called after every durable step; tests cut the power there. Default agent/process/crash-point.ts. */
  crashPoint?: (name: string) => void;
};

type Refused = Extract<SlotResult, { ok: false }>;
const refuse = (message: string): Refused => ({ ok: false, code: 'PRECONDITION', message });
const DONE: SlotResult = { ok: true };

/** Opens the pair; a first start writes an empty boot selector. Starts nothing. */
export const openDirectorySlots = async (options: DirectorySlotsOptions): Promise<Slots> => {
  const dir = resolve(options.dir);
  // On a disk that cannot be written an application has to run all the same.
  await asFarAsPossible(mkdir(dir, { recursive: true }));
  if (options.dataDir !== undefined) await asFarAsPossible(mkdir(options.dataDir, { recursive: true }));
  const there = await readdir(dir).catch(() => []);
  // Left by a cut between writing and renaming; nothing reads them.
  for (const name of there.filter((name) => name.endsWith('.tmp')))
    await asFarAsPossible(rm(join(dir, name), { force: true }));
  const selector = openBootSelector(dir);
  await asFarAsPossible(begin(dir, selector));
  return directorySlots({ ...options, dir }, selector);
};

/** A pair with slots but without a selector has lost it: that is damage, and a new one would hide it. */
const begin = async (dir: string, selector: BootSelector): Promise<void> => {
  const there = await readdir(dir);
  if (there.some((name) => /^(a|b|boot\.[01])(\.json|\.files)?$/.test(name))) return;
  await selector.write({ active: null, trial: null });
};

const directorySlots = (options: DirectorySlotsOptions, selector: BootSelector): Slots => {
  const { dir, supervisor } = options;
  const slotBytesMax = options.slotBytesMax ?? 8 * 1024 ** 3;
  const cut = options.crashPoint ?? crashPoint;
  /** Slots that are being written now. */
  const writing = new Set<SlotName>();
  /** What `boot` chose last, if that has no application to see running. */
  let bootedData: SlotName | null = null;

  /** The selection, or why there is none: then nothing is written at all (faults 11). */
  const select = async (): Promise<{ ok: true; selection: Selection } | Refused> => {
    const found = await selector.read();
    if (found.state === 'read') return { ok: true, selection: found.selection };
    return refuse(`both copies of the boot selector in ${dir} are ${found.state}`);
  };

  const change = async (next: Selection, name: string): Promise<SlotResult> => {
    try {
      await selector.write(next);
    } catch (error) {
      return storageRefusal(error, 'the boot selector cannot be written');
    }
    cut(name);
    return DONE;
  };

  /**
   * How a trial ends: in both copies, lest a torn newest copy brings the trial back. If the second write fails,
   * `prepare` makes up for it before it matters most.
   */
  const endTrial = async (active: Selection['active'], name: string): Promise<SlotResult> => {
    const ended = await change({ active, trial: null }, name);
    if (ended.ok) await selector.settle().catch((error: unknown) => storageRefusal(error, ''));
    return ended;
  };

  const runningSlot = (): SlotName | null => supervisor.running()?.slot ?? bootedData;

  /** Everything that writes into a slot goes through here: never the slot that boots next or runs now. */
  const standby = async (slot: SlotName): Promise<{ ok: true; selection: Selection } | Refused> => {
    const selected = await select();
    if (!selected.ok) return selected;
    if (selected.selection.active === slot) return refuse(`slot ${slot} is the active one`);
    if (runningSlot() === slot) return refuse(`slot ${slot} is running`);
    return selected;
  };

  const prepare: Slots['prepare'] = async (slot, manifest) => {
    // Where the disk could not be written before.
    if ((await selector.read()).state === 'absent') await asFarAsPossible(begin(dir, selector));
    const selected = await standby(slot);
    if (!selected.ok) return selected;
    const fits = fitsSlot(manifest?.artifacts ?? [], slotBytesMax);
    if (!fits.ok) return fits;
    // A trial of this slot that was abandoned ends here: it must not boot what is about to be deleted.
    if (selected.selection.trial?.slot === slot) {
      const forgotten = await endTrial(selected.selection.active, 'slots.prepare.forgotten');
      if (!forgotten.ok) return forgotten;
    }
    try {
      await selector.settle();
      await removeSlotRecord(dir, slot);
      cut('slots.prepare.unbootable');
      await emptySlot(dir, slot);
      cut('slots.prepare.emptied');
      return DONE;
    } catch (error) {
      return storageRefusal(error, `slot ${slot} cannot be emptied`);
    }
  };

  /** What was written is worth nothing, and may be what fills the disk: it must not keep the journal from saying so. */
  const discarded = async (slot: SlotName, why: Refused): Promise<Refused> => {
    await emptySlot(dir, slot).catch(() => undefined);
    return why;
  };

  const letGo = async (): Promise<void> => {
    for (const slot of ['a', 'b'] as const) {
      const selected = await standby(slot);
      if (!selected.ok || selected.selection.trial?.slot === slot || writing.has(slot)) continue;
      if ((await readSlotRecord(dir, slot)) === undefined) await emptySlot(dir, slot);
    }
  };

  const write = async (
    slot: SlotName,
    manifest: Manifest,
    manifestSha256: string,
    fetched: FetchedArtifact[],
    signal?: AbortSignal,
  ): Promise<SlotResult> => {
    const selected = await standby(slot);
    if (!selected.ok) return selected;
    const known = await readSlotRecord(dir, slot);
    // Written already, before a restart: `verify` says whether it is still as it was written.
    if (known?.running.manifest === manifestSha256) return DONE;
    if (known !== undefined) return refuse(`slot ${slot} holds ${known.running.version} and has not been prepared`);
    const matched = await matchArtifacts(manifest, fetched);
    if (!matched.ok) return matched;
    writing.add(slot);
    try {
      // Whatever an interrupted write has left: it takes room, too.
      await emptySlot(dir, slot);
      const room = await checkRoom(dir, matched.artifacts, slotBytesMax);
      if (!room.ok) return room;
      const content = await writeContent(dir, slot, matched.artifacts, slotBytesMax, {
        owner: options.owner,
        signal,
      });
      // Emptying it takes as long as filling it; whatever writes there next does so first.
      if (signal?.aborted === true) return STOPPED;
      if (!content.ok) return await discarded(slot, content);
      cut('slots.write.content');
      await writeSlotRecord(dir, recordOf(slot, manifest, manifestSha256, content.files));
      cut('slots.write.recorded');
      return DONE;
    } catch (error) {
      return await discarded(slot, storageRefusal(error, `slot ${slot} cannot be written`));
    } finally {
      writing.delete(slot);
    }
  };

  const verify = async (slot: SlotName, signal?: AbortSignal): Promise<SlotResult> => {
    const selected = await select();
    if (!selected.ok) return selected;
    const record = await readSlotRecord(dir, slot);
    if (record === undefined) return { ok: false, code: 'WRITE_VERIFY', message: `slot ${slot} has not been written` };
    const written = await verifyContent(dir, slot, record.files, signal);
    // Nothing is known of it now.
    if (signal?.aborted === true) return STOPPED;
    const compared = written.ok ? await verifyAgent(dir, slot, record) : written;
    const standsBy = selected.selection.active !== slot && runningSlot() !== slot;
    try {
      // Nothing unverified is ever bootable, whatever it was before. The active slot is better than none.
      if (!compared.ok && standsBy) {
        await selector.settle();
        await removeSlotRecord(dir, slot);
      }
      if (compared.ok && record.state !== 'bootable') await writeSlotRecord(dir, { ...record, state: 'bootable' });
    } catch (error) {
      return storageRefusal(error, `slot ${slot} cannot be marked`);
    }
    cut('slots.verify.marked');
    return compared;
  };

  const activate = async (slot: SlotName, trial: { tries: number; deployment: string }): Promise<SlotResult> => {
    const selected = await select();
    if (!selected.ok) return selected;
    const { active, trial: pending } = selected.selection;
    // Asked again after a cut: the tries already used stay used.
    if (pending?.slot === slot && pending.deployment === trial.deployment) return DONE;
    if (pending !== null) return refuse(`deployment ${pending.deployment} is still on trial`);
    if (active === slot) return refuse(`slot ${slot} is the active one already`);
    if ((await readSlotRecord(dir, slot))?.state !== 'bootable') return refuse(`slot ${slot} is not bootable`);
    const next = { slot, triesLeft: trial.tries, deployment: Id.parse(trial.deployment) };
    return change({ active, trial: next }, 'slots.activate.written');
  };

  const boot: Slots['boot'] = async (_signal, passedOver) => {
    const found = await selector.read();
    if (found.state !== 'read') return bootWithoutSelector(dir, start, `the boot selector is ${found.state}`);
    const { active, trial } = found.selection;
    const mayTry = trial !== null && trial.triesLeft > 0 && trial.deployment !== passedOver;
    const onTrial = mayTry ? await readSlotRecord(dir, trial.slot) : undefined;
    if (trial !== null && onTrial?.state === 'bootable') {
      // Counted before it runs: an application that takes the whole machine down with it has used its try.
      const counted = await change(
        { active, trial: { ...trial, triesLeft: trial.triesLeft - 1 } },
        'slots.boot.counted',
      );
      if (counted.ok) return start(onTrial, true);
      // A try that cannot be counted must not be used, or a full disk would make a bad version boot forever.
      return { ...(await bootActive(active)), uncounted: counted };
    }
    return bootActive(active);
  };

  const bootActive = async (active: SlotName | null): ReturnType<Slots['boot']> => {
    const record = active === null ? undefined : await readSlotRecord(dir, active);
    if (record?.state === 'bootable') return start(record, false);
    await supervisor.stop();
    bootedData = null;
    return { booted: null, why: active === null ? 'nothing has been committed yet' : `slot ${active} is not bootable` };
  };

  const start = async (record: SlotRecord, trial: boolean): ReturnType<Slots['boot']> => {
    const { slot } = record.running;
    bootedData = null;
    if (record.run === null) {
      await supervisor.stop();
      bootedData = slot;
      return { booted: slot, trial };
    }
    const started = await supervisor.start({
      slot,
      command: record.run.command,
      folder: slotFolder(dir, slot),
      environment: { ...record.run.environment, ...identityOf(record.running, options.dataDir) },
      onExit: trial ? 'report' : 'restart',
    });
    return started.ok ? { booted: slot, trial } : { booted: null, why: started.message };
  };

  return {
    prepare,
    write,
    verify,
    activate,
    boot,
    letGo,
    inspect: async () => {
      const selected = await select();
      if (!selected.ok) return selected;
      const [a, b] = await Promise.all([contentOf(dir, 'a'), contentOf(dir, 'b')]);
      const view: SlotsView = { ...selected.selection, slots: { a, b } };
      return { ok: true, view };
    },
    running: async () => {
      const slot = runningSlot();
      if (slot === null) return null;
      const selected = await select();
      return { slot, trial: selected.ok && selected.selection.trial?.slot === slot };
    },
    commit: async () => {
      const selected = await select();
      if (!selected.ok) return selected;
      const { trial, active } = selected.selection;
      if (trial !== null) {
        const record = await readSlotRecord(dir, trial.slot);
        if (record?.state !== 'bootable') return refuse(`slot ${trial.slot} is on trial but not bootable`);
        const here = runningSlot();
        if (here !== null && here !== trial.slot)
          return refuse(`slot ${trial.slot} is on trial, but slot ${here} runs`);
        const committed = await endTrial(trial.slot, 'slots.commit.written');
        if (!committed.ok) return committed;
      }
      if (supervisor.running() === null || supervisor.running()?.slot === (trial?.slot ?? active))
        supervisor.keepRunning();
      return DONE;
    },
    revert: async () => {
      const selected = await select();
      if (!selected.ok) return selected;
      if (selected.selection.trial === null) return DONE;
      return endTrial(selected.selection.active, 'slots.revert.written');
    },
    stop: async () => {
      bootedData = null;
      await supervisor.stop();
    },
    workFolder: (slot) => slotFolder(dir, slot),
    process: supervisor,
  };
};

/**
 * With the selector lost, one bootable slot leaves no doubt which one is meant; with two no one knows what was
 * committed.
 */
const bootWithoutSelector = async (
  dir: string,
  start: (record: SlotRecord, trial: boolean) => ReturnType<Slots['boot']>,
  why: string,
): ReturnType<Slots['boot']> => {
  const records = await Promise.all([readSlotRecord(dir, 'a'), readSlotRecord(dir, 'b')]);
  const bootable = records.filter((record) => record?.state === 'bootable');
  return bootable.length === 1 ? start(bootable[0]!, false) : { booted: null, why };
};

const recordOf = (slot: SlotName, manifest: Manifest, manifestSha256: string, files: string): SlotRecord => ({
  format: 1,
  state: 'written',
  running: { product: manifest.product, version: manifest.version, manifest: Sha256.parse(manifestSha256), slot },
  securityCounter: manifest.securityCounter,
  run: manifest.run ?? null,
  ...(manifest.agent === undefined ? {} : { agent: manifest.agent }),
  files: Sha256.parse(files),
});

/** A release whose agent could never be started is refused while the old version still runs. */
const verifyAgent = async (dir: string, slot: SlotName, { agent }: SlotRecord): Promise<SlotResult> => {
  const found = agent === undefined ? DONE : await commandOf(join(slotFolder(dir, slot), agent.path));
  return found.ok ? DONE : refuse(`the release names ${agent?.path} as its agent: ${found.why}`);
};

const contentOf = async (dir: string, slot: SlotName): Promise<SlotContent> => {
  const record = await readSlotRecord(dir, slot);
  if (record?.state !== 'bootable') return { state: 'unbootable' };
  return { state: 'bootable', running: record.running, securityCounter: record.securityCounter };
};

/** What an application may want to know of itself. */
const identityOf = (running: Running, dataDir: string | undefined): Record<string, string> => ({
  SLUICE_PRODUCT: running.product,
  SLUICE_VERSION: running.version,
  SLUICE_SLOT: running.slot,
  ...(dataDir === undefined ? {} : { SLUICE_DATA: resolve(dataDir) }),
});

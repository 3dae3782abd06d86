/** Changes of what boots the whole device: activation, reboot, commit and revert. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Id } from '#shared/ids.ts';
import { runCommand } from '../application/command.ts';
import type { Slots } from '../domain/slots.ts';
import { attempt, type BootPair, DONE, type Refused, refuse, select } from './image-pair.ts';
import { readImageRecord, readTrialNote, writeTrialNote } from './image-record.ts';

type Booted = Awaited<ReturnType<Slots['boot']>>;

/** How often a boot loader is asked to boot a trial that it does not boot. */
const REBOOTS_MAX = 3;

export const booting = (pair: BootPair): Pick<Slots, 'activate' | 'boot' | 'running' | 'commit' | 'revert'> => ({
  activate: (slot, trial) => activate(pair, slot, trial),
  boot: (signal) => boot(pair, signal),
  running: async () => {
    const selected = await select(pair);
    if (!selected.ok) return null;
    const { running, selection } = selected;
    return running === null ? null : { slot: running, trial: selection.trial?.slot === running };
  },
  commit: () => commit(pair),
  revert: () => revert(pair),
});

const activate = async (
  pair: BootPair,
  slot: Parameters<Slots['activate']>[0],
  { tries, deployment }: Parameters<Slots['activate']>[1],
): ReturnType<Slots['activate']> => {
  const { dir, filling, selector, bootId, cut, verified } = pair;
  const selected = await select(pair);
  if (!selected.ok) return selected;
  const { selection, running } = selected;
  if (selection.trial !== null) {
    const note = await readTrialNote(dir);
    const pending = note?.trial?.deployment ?? 'that is not known any more';
    // Asked again after a cut: the tries already used stay used.
    if (selection.trial.slot === slot && pending === deployment) return DONE;
    return refuse(`deployment ${pending} is still on trial`);
  }
  if (selection.active === slot) return refuse(`slot ${slot} is the active one already`);
  if (running === slot) return refuse(`slot ${slot} is running`);
  const record = await readImageRecord(dir, slot);
  if (record?.state !== 'bootable') return refuse(`slot ${slot} is not bootable`);
  // The record alone is not believed over a restart.
  if (verified.get(slot) !== record.running.manifest) {
    const compared = await filling.compare(slot, record);
    if (!compared.ok) return compared;
    verified.set(slot, record.running.manifest);
  }
  const note = { format: 1, trial: { slot, deployment: Id.parse(deployment) }, bootId, reboots: 1 } as const;
  return attempt('the trial cannot be set', async () => {
    await writeTrialNote(dir, note);
    cut('slots.activate.noted');
    // Nothing is written after this before the reboot.
    await selector.setTrial(slot, tries);
    cut('slots.activate.written');
  });
};

const boot = async (pair: BootPair, signal?: AbortSignal): Promise<Booted> => {
  const selected = await select(pair);
  if (!selected.ok) return { booted: null, why: selected.message };
  const { running, selection } = selected;
  if (running === null)
    return { booted: null, why: 'nothing says which slot runs (see "running" in the configuration)' };
  const { active, trial } = selection;
  if (trial?.slot === running) return { booted: running, trial: true };
  const here: Booted = { booted: running, trial: false };
  if (trial !== null && trial.triesLeft > 0) {
    const record = await readImageRecord(pair.dir, trial.slot);
    const due = record?.state === 'bootable' ? await trialReboot(pair) : undefined;
    if (due?.ok === false) return { ...here, uncounted: due };
    return due === undefined ? here : reboot(pair, due.command, signal);
  }
  if (running !== active) return reboot(pair, pair.config.reboot, signal);
  if (trial === null) {
    const kept = await attempt('its tries cannot be given back', () => pair.selector.keep());
    if (!kept.ok) pair.log.warn({ event: 'boot-selector-not-written', code: kept.code }, kept.message);
  }
  return here;
};

/** The command that boots the trial, counted; undefined when it is not to be tried (again). */
const trialReboot = async ({
  dir,
  selector,
  config,
  bootId,
  log,
}: BootPair): Promise<{ ok: true; command: string[] } | Refused | undefined> => {
  let command: string[] | undefined;
  const counted = await attempt('the reboot cannot be counted', async () => {
    const own = await selector.arm();
    if (own !== null) {
      command = own;
      return;
    }
    const note = await readTrialNote(dir);
    if (note === undefined || note.trial === null) return;
    // In this very boot the boot loader has not had its say yet.
    if (note.bootId === bootId) command = config.reboot;
    else if (note.reboots < REBOOTS_MAX) {
      await writeTrialNote(dir, { ...note, bootId, reboots: note.reboots + 1 });
      command = config.reboot;
    } else log.error({ event: 'trial-not-booted' }, 'the boot loader does not boot the trial that it was told to');
  });
  // A reboot that cannot be counted must not be, or a full disk would make a bad version boot forever.
  if (!counted.ok) {
    log.error({ event: 'boot-selector-not-written', code: counted.code }, counted.message);
    return counted;
  }
  return command === undefined ? undefined : { ok: true, command };
};

/** Ends with this process, if all is well. */
const reboot = async (
  { config, dir, log }: BootPair,
  command: string[],
  signal: AbortSignal = new AbortController().signal,
): Promise<Booted> => {
  log.warn({ event: 'rebooting' }, `rebooting: ${command.join(' ')}`);
  const ran = await runCommand({ command, folder: dir, timeoutMs: config.rebootMs, signal });
  if (!ran.ok && !signal.aborted)
    return { booted: null, why: `the reboot failed: ${ran.message}: ${ran.output.trim()}`.slice(0, 500) };
  await sleep(config.rebootMs, undefined, { signal }).catch(() => undefined);
  return { booted: null, why: `the device has not rebooted within ${config.rebootMs} ms` };
};

const commit = async (pair: BootPair): ReturnType<Slots['commit']> => {
  const selected = await select(pair);
  if (!selected.ok) return selected;
  const { running, selection } = selected;
  if (selection.trial === null) return DONE;
  const { slot } = selection.trial;
  if ((await readImageRecord(pair.dir, slot))?.state !== 'bootable')
    return refuse(`slot ${slot} is on trial but not bootable`);
  if (running !== slot) return refuse(`slot ${slot} is on trial, but slot ${running ?? 'unknown'} runs`);
  return attempt('the trial cannot be committed', async () => {
    await pair.selector.commit(slot);
    pair.cut('slots.commit.written');
  });
};

const revert = async (pair: BootPair): ReturnType<Slots['revert']> => {
  const selected = await select(pair);
  if (!selected.ok) return selected;
  if (selected.selection.trial === null) return DONE;
  return attempt('the trial cannot be reverted', async () => {
    // Says that a reboot is due in this boot, should the trial run now.
    await writeTrialNote(pair.dir, { format: 1, trial: null, bootId: pair.bootId, reboots: 0 });
    pair.cut('slots.revert.noted');
    await pair.selector.revert();
    pair.cut('slots.revert.written');
  });
};

/**
 * Behind an installer of any kind: activation, trial, commit and revert. The installer is asked first, and asked again
 * after a cut.
 */

import type { SlotName, SlotResult, Slots } from '#agent/domain/slots.ts';
import { storageRefusal } from '#agent/process/system-error.ts';
import { Id } from '#shared/ids.ts';
import type { Selection } from '../boot-selector.ts';
import { DONE, refuse } from '../image-pair.ts';
import { askVerb, type CommandPair, type Known, know, writeBooted } from './command-pair.ts';

type Booted = Awaited<ReturnType<Slots['boot']>>;

export const booting = (pair: CommandPair): Pick<Slots, 'activate' | 'boot' | 'running' | 'commit' | 'revert'> => ({
  activate: (slot, trial) => activate(pair, slot, trial),
  boot: (signal) => boot(pair, signal),
  running: async () => {
    const known = await know(pair);
    if (!known.ok || known.running === null) return null;
    return { slot: known.running, trial: known.trial?.slot === known.running };
  },
  commit: () => commit(pair),
  revert: () => revert(pair),
});

/** One durable step. Writes nothing where that is what is recorded already. */
export const change = async (pair: CommandPair, next: Selection, name: string): Promise<SlotResult> => {
  try {
    const found = await pair.selector.read();
    const same = found.state === 'read' && JSON.stringify(found.selection) === JSON.stringify(next);
    if (!same) await pair.selector.write(next);
  } catch (error) {
    return storageRefusal(error, 'the boot selector cannot be written');
  }
  pair.cut(name);
  return DONE;
};

const activate = async (
  pair: CommandPair,
  slot: SlotName,
  { tries, deployment }: { tries: number; deployment: string },
): Promise<SlotResult> => {
  const known = await know(pair);
  if (!known.ok) return known;
  const { active, trial } = known;
  if (active === slot) return refuse(`slot ${slot} is the active one already`);
  if (trial !== null && (trial.slot !== slot || trial.deployment !== deployment))
    return refuse(`deployment ${trial.deployment} is still on trial`);
  if (known.running === slot && trial === null) return refuse(`slot ${slot} is running`);
  if (known.records[slot]?.state !== 'bootable') return refuse(`slot ${slot} is not bootable`);
  // Asked again after a cut: the tries already used stay used.
  const next = trial ?? { slot, triesLeft: tries, deployment: Id.parse(deployment) };
  const recorded = await change(pair, { active, trial: next }, 'slots.activate.written');
  if (!recorded.ok) return recorded;
  // Whether it was told before a cut is not known: it may be told twice.
  const told = await askVerb(pair, 'activate', [slot, String(next.triesLeft)]);
  if (!told.ok) return refuse(told.message, told.code);
  pair.cut('slots.activate.told');
  return DONE;
};

const boot = async (pair: CommandPair, signal: AbortSignal | undefined): Promise<Booted> => {
  for (let leftBefore = Number.POSITIVE_INFINITY; ; ) {
    const known = await know(pair);
    if (!known.ok) return { booted: null, why: known.message };
    const { trial, running } = known;
    if (trial !== null && trial.slot === running) return { booted: running, trial: true };
    // An installer that counts by itself, and does not, must not be asked forever.
    const mayTry = trial !== null && trial.triesLeft > 0 && trial.triesLeft < leftBefore;
    if (!mayTry || known.records[trial.slot]?.state !== 'bootable') return bootActive(pair, known, signal);
    leftBefore = trial.triesLeft;
    // Counted before it runs: a version that takes the whole target down with it has used its try.
    const left = { ...trial, triesLeft: trial.triesLeft - 1 };
    const counted = await change(pair, { active: known.active, trial: left }, 'slots.boot.counted');
    if (!counted.ok) return { ...(await bootActive(pair, known, signal)), uncounted: counted };
    const booted = await bootSlot(pair, trial.slot, signal);
    if (booted.ok) return { booted: trial.slot, trial: true };
    if (signal?.aborted === true) return { booted: null, why: booted.message };
  }
};

const bootActive = async (pair: CommandPair, { active, running }: Known, signal?: AbortSignal): Promise<Booted> => {
  if (active === null) return { booted: null, why: 'nothing has been committed yet' };
  if (active === running) return { booted: active, trial: false };
  const booted = await bootSlot(pair, active, signal);
  return booted.ok ? { booted: active, trial: false } : { booted: null, why: booted.message };
};

/**
 * The slot runs when this resolves well: by the installer's answer, and by what it then sees running, if it can see that.
 */
const bootSlot = async (pair: CommandPair, slot: SlotName, signal?: AbortSignal): Promise<SlotResult> => {
  const done = await askVerb(pair, 'boot', [slot], { signal });
  if (!done.ok) return refuse(done.message, done.code);
  try {
    await writeBooted(pair, slot);
  } catch (error) {
    return storageRefusal(error, 'what was booted cannot be recorded');
  }
  pair.cut('slots.boot.booted');
  const known = await know(pair);
  if (!known.ok) return known;
  return known.running === slot ? DONE : refuse(`boot: slot ${known.running ?? 'unknown'} runs, not ${slot}`);
};

const commit = async (pair: CommandPair): Promise<SlotResult> => {
  const known = await know(pair);
  if (!known.ok) return known;
  const { trial, active, running } = known;
  // Committed before a cut, as far as the installer knows: what is recorded catches up.
  if (trial === null) return change(pair, { active, trial: null }, 'slots.commit.written');
  const { slot } = trial;
  if (known.records[slot]?.state !== 'bootable') return refuse(`slot ${slot} is on trial but not bootable`);
  if (running !== slot) return refuse(`slot ${slot} is on trial, but slot ${running ?? 'unknown'} runs`);
  const told = await askVerb(pair, 'commit', [slot]);
  if (!told.ok) return refuse(told.message, told.code);
  pair.cut('slots.commit.told');
  return endTrial(pair, slot, 'slots.commit.written');
};

const revert = async (pair: CommandPair): Promise<SlotResult> => {
  const known = await know(pair);
  if (!known.ok) return known;
  const own = await pair.selector.read();
  const recorded = own.state === 'read' ? own.selection.trial : null;
  const slot = known.trial?.slot ?? recorded?.slot;
  if (slot === undefined) return DONE;
  if (slot !== known.active) {
    const told = await askVerb(pair, 'revert', [slot]);
    if (!told.ok) return refuse(told.message, told.code);
    pair.cut('slots.revert.told');
  }
  return endTrial(pair, known.active, 'slots.revert.written');
};

/** In both copies, lest a torn newest copy brings the trial back. `prepare` makes up for a second write that fails. */
const endTrial = async (pair: CommandPair, active: SlotName | null, name: string): Promise<SlotResult> => {
  const ended = await change(pair, { active, trial: null }, name);
  if (ended.ok) await pair.selector.settle().catch((error: unknown) => storageRefusal(error, ''));
  return ended;
};

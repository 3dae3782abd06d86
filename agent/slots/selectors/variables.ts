/** Boot selectors that are a few variables in an environment: the conventions decide, a store keeps. */
import type { SlotName } from '#agent/domain/slots.ts';
import { type FitnessProblem, type ImageSelection, type ImageSelector, TRIES_MAX } from './selector.ts';

export type Variables = Readonly<Record<string, string>>;

/** What to set; '' deletes. */
export type Changes = Record<string, string>;

/** Pure: how a boot loader's script reads its variables, and so what to put into them. */
export type Convention = {
  /** A sentence when the variables make no sense. */
  read(variables: Variables): ImageSelection | string;
  /** Whether the script could boot this slot. */
  mayBoot(variables: Variables, slot: SlotName): boolean;
  disable(variables: Variables, slot: SlotName): Changes;
  trial(slot: SlotName, tries: number): Changes;
  commit(slot: SlotName): Changes;
  revert(active: SlotName): Changes;
  keep(variables: Variables, active: SlotName): Changes;
};

export type VariablesRead =
  /** `older` is what counts if the newest copy cannot be read any more; null when that could not be read either. */
  { state: 'read'; newest: Variables; older: Variables | null } | { state: 'damaged'; why: string };

/** An environment with two copies, of which one write changes one. */
export type VariableStore = {
  read(): Promise<VariablesRead>;
  /** All of them or none, durably. */
  write(changes: Changes): Promise<void>;
  /** Makes the older copy say the same as the newest. */
  settle(): Promise<void>;
  check(): Promise<FitnessProblem[]>;
};

export const openVariableSelector = (store: VariableStore, convention: Convention): ImageSelector => {
  const load = async (): Promise<{ newest: Variables; older: Variables | null; selection: ImageSelection }> => {
    const found = await store.read();
    if (found.state === 'damaged') throw new Error(found.why);
    const selection = convention.read(found.newest);
    if (typeof selection === 'string') throw new Error(selection);
    return { ...found, selection };
  };
  /** Nothing is written that is there already. */
  const change = async (newest: Variables, changes: Changes): Promise<void> => {
    const lacking = Object.entries(changes).filter(([name, value]) => (newest[name] ?? '') !== value);
    if (lacking.length > 0) await store.write(Object.fromEntries(lacking));
  };
  /**
   * An end of a trial goes into both copies, lest a torn newest one brings the trial back. `disable` makes up for a
   * failure.
   */
  const conclude = async (changes: Changes): Promise<void> => {
    await change((await load()).newest, changes);
    await store.settle().catch(() => undefined);
  };

  return {
    read: async () => {
      const found = await store.read();
      if (found.state === 'damaged') return found;
      const selection = convention.read(found.newest);
      return typeof selection === 'string' ? { state: 'damaged', why: selection } : { state: 'read', selection };
    },
    disable: async (slot) => {
      const { newest } = await load();
      await change(newest, convention.disable(newest, slot));
      const { older } = await load();
      if (older === null || convention.mayBoot(older, slot)) await store.settle();
    },
    setTrial: async (slot, tries) => {
      await change((await load()).newest, convention.trial(slot, Math.min(tries, TRIES_MAX)));
    },
    commit: (slot) => conclude(convention.commit(slot)),
    revert: async () => {
      const { selection } = await load();
      if (selection.trial !== null) await conclude(convention.revert(selection.active));
    },
    keep: async () => {
      const { newest, selection } = await load();
      if (selection.trial === null) await change(newest, convention.keep(newest, selection.active));
    },
    arm: async () => null,
    check: async () => {
      const problems = await store.check();
      if (problems.some(({ grave }) => grave)) return problems;
      const found = await store.read();
      const selection = found.state === 'damaged' ? found.why : convention.read(found.newest);
      return typeof selection === 'string' ? [...problems, { grave: true, sentence: selection }] : problems;
    },
  };
};

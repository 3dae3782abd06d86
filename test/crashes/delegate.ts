/**
 * Targets behind an installer that speaks the protocol of docs/delegate.md. The installer's own writes are steps like
 * the agent's: both die before any of them. Being on the same volume it is no process of its own;
 * test/agent/slots/delegate kills a real one between its steps.
 */
import { createHash } from 'node:crypto';
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import type { CommandConfig } from '#agent/config/delegate-config.ts';
import { SlotsConfig } from '#agent/config/slots-config.ts';
import type { SlotName, Slots } from '#agent/domain/slots.ts';
import { errorCode } from '#agent/process/system-error.ts';
import { openBootSelector } from '#agent/slots/boot-selector.ts';
import { openCommandSlots } from '#agent/slots/delegate/command.ts';
import type { Told, Verb } from '#agent/slots/delegate/verbs.ts';
import { readImageRecord } from '#agent/slots/image-record.ts';
import { readFileIfThere, syncFolder, writeFileDurably } from '#shared/durable.ts';
import { Sha256 } from '#shared/ids.ts';
import { COMPATIBLE, type Device, installFirst, type Kind, PAIR, ROOT } from './device.ts';
import { log } from './log.ts';
import { IDLE, type Ran } from './mount.ts';
import { HANDLER, type Release } from './releases.ts';

export const INSTALLER = 'installer';
const TARGET = `${ROOT}/target`;
const STATE = `${TARGET}/state`;
const PIECE_BYTES = 48 * 1024;

/** `trial`: of a boot loader that counts by itself. */
type State = { running: SlotName; active: SlotName; trial: { slot: SlotName; triesLeft: number } | null };
type Words = [slot: SlotName, more: string];
type Verbs = Partial<Record<Verb, (...words: Words) => Promise<string | undefined | void>>>;

class Failed extends Error {}

const bank = (slot: SlotName): string => `${TARGET}/bank-${slot}`;
const digestOf = (bytes: Buffer): Sha256 => Sha256.parse(createHash('sha256').update(bytes).digest('hex'));
const getState = async (): Promise<State> => JSON.parse(await readFile(STATE, 'utf8')) as State;
/** All or nothing, and nothing where it is so already. */
const putState = async (change: Partial<State>): Promise<void> => {
  const before = await getState();
  const next = { ...before, ...change };
  if (JSON.stringify(next) !== JSON.stringify(before)) await writeFileDurably(STATE, JSON.stringify(next));
};

const install = async (slot: SlotName, source: string): Promise<void> => {
  const firmware = await readFile(source);
  const handle = await open(bank(slot), 'w');
  for (let at = 0; at < firmware.length; at += PIECE_BYTES)
    await handle.writeFile(firmware.subarray(at, at + PIECE_BYTES));
  await handle.sync();
  await handle.close();
  await syncFolder(TARGET);
};

/**
 * All that an installer needs to know. Whatever it was told last runs, also after a power cut; the agent remembers the
 * rest.
 */
const PLAIN: Verbs = {
  install,
  verify: async (slot, sha256) => {
    if (digestOf(await readFile(bank(slot))) !== sha256) throw new Failed('another content');
  },
  boot: async (slot) => {
    if ((await readFileIfThere(bank(slot))) === undefined) throw new Failed('nothing there');
    await putState({ running: slot });
  },
};

/**
 * A target that knows everything itself: its boot loader counts trials, and boots the committed version when the power
 * comes back.
 */
const KNOWING: Verbs = {
  ...PLAIN,
  inspect: async () => {
    const [a, b] = [await readFileIfThere(bank('a')), await readFileIfThere(bank('b'))];
    const contents = { a: a === undefined ? null : digestOf(a), b: b === undefined ? null : digestOf(b) };
    return JSON.stringify({ ...(await getState()), contents } satisfies Told);
  },
  prepare: async (slot) => {
    await rm(bank(slot), { force: true });
    await syncFolder(TARGET);
  },
  activate: async (slot, tries) => putState({ trial: { slot, triesLeft: Number(tries) } }),
  boot: async (slot) => {
    const { trial } = await getState();
    if ((await readFileIfThere(bank(slot))) === undefined) throw new Failed('nothing there');
    const counted = trial?.slot === slot ? { trial: { slot, triesLeft: Math.max(0, trial.triesLeft - 1) } } : {};
    await putState({ running: slot, ...counted });
  },
  commit: async (slot) => putState({ active: slot, trial: null }),
  revert: async () => putState({ trial: null }),
};

/** What it ends with, by its writes. */
const CODES: Record<string, number> = { ENOSPC: 73, EIO: 74, EROFS: 74 };

const runInstaller = async (verbs: Verbs, [, verb, slot, more]: string[]): Promise<Ran> => {
  const act = verbs[verb as Verb];
  if (act === undefined) return { code: 64, stdout: '', stderr: '' };
  try {
    return { code: 0, stdout: (await act(slot as SlotName, more ?? '')) ?? '', stderr: '' };
  } catch (error) {
    const code = error instanceof Failed ? 1 : CODES[errorCode(error)];
    if (code === undefined) throw error;
    return { code, stdout: '', stderr: String(error) };
  }
};

const delegate = (name: string, verbs: Verbs, goesBack: boolean): Kind => ({
  name: `delegate, ${name}`,
  kind: 'delegate',
  make: async ({ attach }, first) => {
    const run = (command: string[]): Promise<Ran> | undefined =>
      command[0] === INSTALLER ? runInstaller(verbs, command) : undefined;
    await mkdir(PAIR, { recursive: true });
    await mkdir(TARGET);
    await writeFile(STATE, JSON.stringify({ running: 'b', active: 'b', trial: null } satisfies State));
    const config = SlotsConfig.parse({
      kind: 'delegate',
      installer: 'command',
      handler: HANDLER,
      command: [INSTALLER],
    }) as CommandConfig;
    const openSlots = (): Promise<Slots> => openCommandSlots({ config, dir: PAIR, compatible: COMPATIBLE, log });
    attach({ ...IDLE, run });
    await installFirst(await openSlots(), first);

    const holds = async (slot: SlotName, { image }: Release): Promise<boolean> =>
      (await readFileIfThere(bank(slot)))?.equals(image) === true;
    const isWhole = async (slot: SlotName, release: Release): Promise<boolean> =>
      (await holds(slot, first)) || holds(slot, release);
    return {
      openSlots,
      run,
      runSync: () => '',
      startsTrial: ([word, verb, slot]) => word === INSTALLER && verb === 'boot' && slot === 'b',
      powerOn: async () => {
        if (goesBack) await putState({ running: (await getState()).active });
      },
      isSelector: (path) => path.startsWith(`${PAIR}/boot.`) || path.startsWith(STATE),
      fault: async (release) => {
        for (const slot of ['a', 'b'] as const) {
          const record = await readImageRecord(PAIR, slot);
          const version = record?.running.version === first.version ? first : release;
          if (record?.state === 'bootable' && !(await holds(slot, version)))
            return `slot ${slot} is bootable, and not what was verified`;
        }
        const { running, active, trial } = await getState();
        const boots = goesBack ? [active, running, trial?.slot ?? active] : [running];
        for (const slot of boots) if (!(await isWhole(slot, release))) return `slot ${slot} boots, and is not whole`;
        const own = await openBootSelector(PAIR).read();
        return own.state === 'read' ? undefined : `the boot selector is ${own.state}`;
      },
    } satisfies Device;
  },
});

export const delegates: readonly Kind[] = [
  delegate('an installer that remembers nothing', PLAIN, false),
  delegate('a target that goes back by itself', KNOWING, true),
];

/**
 * Makes what a trial does to the application's data undoable: a snapshot right before the trial, put back when the
 * trial is reverted, thrown away when it is committed.
 *
 * In the agent's folder, beside `application` (the data):
 *   `application.copying`                     a snapshot that is being made: worthless
 *   `application.snapshot-<slot>-<deployment>` a whole snapshot, on the disk. Its name is all there is to know about it
 *   `application.undone`                      data of a reverted trial: worthless
 *   `application.discarded`                   the snapshot of a committed one: worthless
 *
 * A snapshot comes into being and goes by one rename each, so what to do with it follows from the boot selector at any
 * moment, whatever was interrupted, and without the journal: its slot is on trial in its deployment: wait; its slot is
 * the active one: the trial was committed; else it was reverted, or never began, and the snapshot is the data. It must
 * be settled before anything else boots or is activated: later its slot may be the active one for other reasons.
 */
import { lstat, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { syncFolder } from '#shared/durable.ts';
import type { Manifest } from '#shared/manifest.ts';
import type { AgentConfig } from '../config/config.ts';
import { canShareBlocks, copyTree, measureTree, TreeNotCopied } from '../disk/copy-tree.ts';
import { freeOn, noRoomFor, spaceFor } from '../disk/room.ts';
import type { SlotName, SlotResult, SlotsView } from '../domain/slots.ts';
import { crashPoint } from '../process/crash-point.ts';
import { asFarAsPossible, storageRefusal } from '../process/system-error.ts';

export type DataSnapshots = {
  /** Whether a snapshot is possible, and fits: `NO_SPACE`, `PRECONDITION`. Changes nothing; the application may run. */
  check(bytesMax: number): Promise<SlotResult>;
  /** The application must not run, and nothing older may be unsettled. Durable when it resolves. */
  take(trial: { slot: SlotName; deployment: string }, bytesMax: number, signal?: AbortSignal): Promise<SlotResult>;
  /**
   * Does with a snapshot what the boot selector says. The application must not run, unless it is on trial or committed.
   */
  settle(view: Pick<SlotsView, 'active' | 'trial'>): Promise<SlotResult>;
};

const DATA = 'application';
const SNAPSHOT = /^application\.snapshot-([ab])-([A-Za-z0-9_-]{1,64})$/;
const snapshotName = ({ slot, deployment }: { slot: SlotName; deployment: string }): string =>
  `${DATA}.snapshot-${slot}-${deployment}`;
const WORTHLESS = { copying: `${DATA}.copying`, undone: `${DATA}.undone`, discarded: `${DATA}.discarded` };
const DONE: SlotResult = { ok: true };

/** The device's report before the release's; the smaller of their limits. Null: no snapshot. */
export const snapshotLimit = (
  { data }: Pick<Manifest, 'data'>,
  { data: device }: Pick<AgentConfig, 'data'>,
): { bytesMax: number } | null => {
  if (!(device.snapshot ?? data?.snapshot ?? false)) return null;
  return { bytesMax: Math.min(device.bytesMax, data?.bytesMax ?? device.bytesMax) };
};

/** `cut` is called after every durable step; tests cut the power there. */
export const openDataSnapshots = (
  root: string,
  cut: (name: string) => void = crashPoint,
  shares: (dir: string) => Promise<boolean> = canShareBlocks,
): DataSnapshots => {
  const at = (name: string): string => join(root, name);

  const move = async (from: string, to: string, name: string): Promise<void> => {
    await rename(at(from), at(to));
    await syncFolder(root);
    cut(name);
  };

  /** The data folder is there, and can be renamed. */
  const isPlain = async (): Promise<boolean> => {
    const [folder, data] = await Promise.all([lstat(root), lstat(at(DATA))]);
    return data.isDirectory() && data.dev === folder.dev;
  };

  const check = (bytesMax: number): Promise<SlotResult> =>
    asResult(async () => {
      if (!(await isPlain()))
        throw new TreeNotCopied('PRECONDITION', 'it is not a plain folder on the file system of the agent');
      const size = await measureTree(at(DATA), bytesMax);
      const why = noRoomFor(spaceFor(size), await freeOn(root));
      if (why !== undefined && !(await shares(root))) throw new TreeNotCopied('NO_SPACE', why);
      return DONE;
    });

  const take: DataSnapshots['take'] = (trial, bytesMax, signal) =>
    asResult(async () => {
      const known = await readdir(root);
      const older = known.find((name) => SNAPSHOT.test(name));
      if (older !== undefined) throw new TreeNotCopied('PRECONDITION', `${older} has not been settled`);
      await rm(at(WORTHLESS.copying), { recursive: true, force: true });
      try {
        await copyTree(at(DATA), at(WORTHLESS.copying), bytesMax, () => cut('data.copying'), signal);
      } catch (error) {
        if (signal?.aborted === true) return { ok: false, code: 'PRECONDITION', message: 'stopped' };
        // What was copied may be what fills the disk.
        await rm(at(WORTHLESS.copying), { recursive: true, force: true }).catch(() => undefined);
        throw error;
      }
      cut('data.copied');
      await move(WORTHLESS.copying, snapshotName(trial), 'data.taken');
      return DONE;
    });

  const restore = async (snapshot: string, isThere: boolean): Promise<void> => {
    if (isThere) {
      await rm(at(WORTHLESS.undone), { recursive: true, force: true });
      await move(DATA, WORTHLESS.undone, 'data.set-aside');
    }
    await move(snapshot, DATA, 'data.restored');
  };

  const discard = async (snapshot: string): Promise<void> => {
    await rm(at(WORTHLESS.discarded), { recursive: true, force: true });
    await move(snapshot, WORTHLESS.discarded, 'data.discarded');
  };

  const settle: DataSnapshots['settle'] = ({ active, trial }) =>
    asResult(async () => {
      const names = await readdir(root);
      for (const name of names) {
        const [, slot, deployment] = SNAPSHOT.exec(name) ?? [];
        if (slot === undefined || (trial?.slot === slot && trial.deployment === deployment)) continue;
        if (active === slot) await discard(name);
        else await restore(name, names.includes(DATA));
      }
      // What is worth nothing and cannot be removed yet is in no one's way.
      for (const name of Object.values(WORTHLESS)) {
        await asFarAsPossible(rm(at(name), { recursive: true, force: true }));
        cut('data.cleared');
      }
      return DONE;
    });

  return { check, take, settle };
};

const asResult = async (act: () => Promise<SlotResult>): Promise<SlotResult> => {
  const doing = "the application's data cannot be kept or put back";
  try {
    return await act();
  } catch (error) {
    if (error instanceof TreeNotCopied) return { ok: false, code: error.code, message: `${doing}: ${error.message}` };
    return storageRefusal(error, doing);
  }
};

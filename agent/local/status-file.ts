/**
 * `status.json` in the data folder: what the agent is doing, for local programs. Replaced whole, not flushed: it is
 * only about now.
 */
import { rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Running } from '#shared/deployment.ts';
import { releaseRef } from '#shared/ids.ts';
import { mayActivateAt, mayInstallAt } from '#shared/windows.ts';
import { AGENT_VERSION } from '../config/version.ts';
import type { Refusal } from '../deployment/desired.ts';
import type { Hold } from '../deployment/holds.ts';
import type { DiskTrouble } from '../disk/disk.ts';
import type { InstallState } from '../domain/install-state.ts';
import { turnAt } from '../domain/spread.ts';
import { isSystemError } from '../process/system-error.ts';
import type { Trouble } from '../server/trouble.ts';
import type { Progress } from '../transfer/last-transfer.ts';

export type Facts = {
  device: string;
  at: number;
  progress: Progress | null;
  running: Running | null;
  connected: boolean;
  refusal: Refusal | null;
  /** What keeps it from its server. */
  trouble: Trouble | null;
  install: InstallState;
  /** Over how long the fleet takes turns. */
  spreadMs: number;
  /** What is wrong with the disk that the data folder is on. */
  disk: DiskTrouble | null;
  /** What holds the update back on this device. */
  hold: Hold | null;
  /** When this agent started. */
  since: number;
  /** How the newest deployment ended. */
  last: { deployment: string; outcome: string } | null;
};
export type Status = ReturnType<typeof statusOf>;
export type StatusFile = ReturnType<typeof openStatusFile>;

/** `at` is in milliseconds since 1970; `refusal` is why the newest desired document is not acted on. */
const statusOf = ({ install, spreadMs, ...facts }: Facts) => {
  const offered = install.state === 'idle' ? null : install.offer.install;
  return {
    v: 1,
    ...facts,
    pid: process.pid,
    agent: AGENT_VERSION,
    state: install.state,
    stateSince: install.state === 'idle' ? null : install.since,
    /** By the offer's windows and activation time; null: at once, or when told. */
    nextAt: nextAt(install, { device: facts.device, spreadMs }, facts.at),
    deployment: offered?.deployment ?? null,
    release: offered === null ? null : releaseRef(offered.product, offered.version),
    error: 'error' in install ? install.error : null,
  };
};

/** When the device goes on by its offer and its turn, where that is later than now. */
const nextAt = (install: InstallState, turn: { device: string; spreadMs: number }, now: number): number | null => {
  if (install.state !== 'waiting' && install.state !== 'ready') return null;
  const allowed = install.state === 'waiting' ? mayInstallAt : mayActivateAt;
  const may = allowed(install.offer.install, now);
  const at = may === undefined ? may : turnAt(install.offer.install, may, { ...turn, since: install.since });
  return at === undefined || at <= now ? null : at;
};

export const openStatusFile = (
  dir: string,
  look: () => Promise<Facts>,
  missed: (error: unknown) => void = () => undefined,
) => {
  const file = join(dir, 'status.json');
  let writing: Promise<void> | undefined;
  let again = false;

  const watchers = new Set<(status: Status) => void>();

  const write = async (): Promise<void> => {
    try {
      const status = statusOf(await look());
      for (const watcher of watchers) watcher(status);
      await writeFile(`${file}.tmp`, `${JSON.stringify(status)}\n`);
      await rename(`${file}.tmp`, file);
    } catch (error) {
      // Nothing depends on it.
      if (isSystemError(error)) missed(error);
    }
  };
  /** At most one write at a time; what changes meanwhile makes one more. */
  const changed = (): void => {
    if (writing !== undefined) {
      again = true;
      return;
    }
    writing = write().finally(() => {
      writing = undefined;
      if (!again) return;
      again = false;
      changed();
    });
  };
  return {
    changed,
    settled: async () => writing,
    now: async () => statusOf(await look()),
    /** Called at every change, until what it returns is. */
    watch: (watcher: (status: Status) => void): (() => void) => {
      watchers.add(watcher);
      return () => void watchers.delete(watcher);
    },
  };
};

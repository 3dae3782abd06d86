/**
 * Starts a command in a process group of its own and waits for its end, but never without a bound: when its time is up,
 * or it is not wanted any more, the group gets SIGKILL. What outlives even that is stuck in the kernel (a dead network
 * file system, a broken driver), or has become another user's. It is left behind, and few of the same are: a caller
 * that wants to start one more is refused.
 */
import type { ChildProcess, SpawnOptions } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { groupRuns, signalProcess } from './process-table.ts';
import { startChild } from './start-child.ts';
import { errorCode } from './system-error.ts';

/** From SIGKILL until a process counts as left behind. */
const KILL_MS_MAX = 1_000;
const LOOK_MS = { first: 2, max: 100 };
const TIMER_MS_MAX = 2 ** 31 - 1;
/** How many of the same command, and of all commands, may be left behind before no more of them are started. */
const LEFT_SAME_MAX = 2;
const LEFT_MAX = 16;

type Left = { command: string; group: number };
/** Of this process: no one else may forget them. */
let known: Left[] = [];
export const leftBehind = new EventEmitter<{ left: [one: Left] }>();

export type Bounds = { timeoutMs: number; signal?: AbortSignal | undefined };
type ChildEnd = 'by-itself' | 'too-late' | 'aborted';
export type Started =
  /**
   * `ended` rejects with the system's error when it could not be executed. It ends with its whole group, but for what
   * is left behind.
   */
  { ok: true; child: ChildProcess; ended: Promise<ChildEnd> } | { ok: false; why: string };

export const startBounded = async (
  [word, ...words]: string[],
  options: SpawnOptions,
  bounds: Bounds,
): Promise<Started> => {
  const command = [word, ...words].join(' ').slice(0, 200);
  const stuck = await stillThere(command);
  if (stuck !== undefined) return { ok: false, why: stuck };
  const started = startChild(word!, words, { ...options, detached: true });
  if (!started.ok) return { ok: false, why: whyNotRun(started.error) };
  const ended = endOf(started.child, command, bounds);
  ended.catch(() => undefined);
  return { ok: true, child: started.child, ended };
};

/** For a command that has nothing to say. */
export const endsWell = async (command: string[], options: SpawnOptions, bounds: Bounds): Promise<boolean> => {
  const started = await startBounded(command, { ...options, stdio: 'ignore' }, bounds);
  if (!started.ok) return false;
  // It may not be there.
  const end = await started.ended.catch(() => undefined);
  return end === 'by-itself' && started.child.exitCode === 0;
};

export const whyNotRun = (error: unknown): string => `cannot be run: ${errorCode(error) || String(error)}`;

const stillThere = async (command: string): Promise<string | undefined> => {
  if (known.length === 0) return undefined;
  const lives = await Promise.all(known.map(({ group }) => groupRuns(group)));
  known = known.filter((_, index) => lives[index]);
  const same = known.filter((one) => one.command === command);
  if (same.length < LEFT_SAME_MAX && known.length < LEFT_MAX) return undefined;
  const groups = (same.length < LEFT_SAME_MAX ? known : same).map(({ group }) => group).join(', ');
  return `is not started again: earlier processes cannot be killed (${groups})`;
};

const endOf = async (child: ChildProcess, command: string, { timeoutMs, signal }: Bounds): Promise<ChildEnd> => {
  const over = Promise.withResolvers<ChildEnd>();
  const abort = (): void => over.resolve('aborted');
  const timer = setTimeout(() => over.resolve('too-late'), Math.min(timeoutMs, TIMER_MS_MAX));
  signal?.addEventListener('abort', abort);
  if (signal?.aborted === true) abort();
  once(child, 'exit').then(() => over.resolve('by-itself'), over.reject);
  try {
    const end = await over.promise;
    if (child.pid !== undefined && !(await endGroup(child.pid))) {
      child.unref();
      const left = { command, group: child.pid };
      known.push(left);
      leftBehind.emit('left', left);
    }
    return end;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', abort);
  }
};

/** False when something of it still runs. */
const endGroup = async (group: number): Promise<boolean> => {
  const until = performance.now() + KILL_MS_MAX;
  for (let wait = LOOK_MS.first; ; wait = Math.min(2 * wait, LOOK_MS.max)) {
    signalProcess(-group, 'SIGKILL');
    if (!(await groupRuns(group))) return true;
    if (performance.now() >= until) return false;
    await sleep(wait);
  }
};

/**
 * Facts about processes from Linux's /proc. Elsewhere nothing is found, and so nothing is ever killed by mistake: a pid
 * alone says little, because pids are used again.
 */
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { lookIntoProcess } from './outside.ts';
import { errorCode } from './system-error.ts';

const ENVIRONMENT_MS_MAX = 1_000;

type Found = { startTicks: string; group: number; zombie: boolean };

/**
 * When the process started, in clock ticks since the machine's boot (proc(5), field 22), with its group and state;
 * undefined if there is none.
 */
export const lookUpProcess = async (pid: number): Promise<Found | undefined> => {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  // The second field is the program's name, which may itself contain spaces and parentheses.
  const fields = stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
  if (fields?.[19] === undefined) return undefined;
  return { startTicks: fields[19], group: Number(fields[2]), zombie: fields[0] === 'Z' || fields[0] === 'X' };
};

/**
 * Waits until that very process runs no more; false when it still does after `msMax`. A killed process takes a moment
 * to end, and keeps its port until then. (Node tells of the end only of its own children.)
 */
export const processEnds = async (pid: number, startTicks: string, msMax: number): Promise<boolean> => {
  const until = performance.now() + msMax;
  for (;;) {
    const there = await lookUpProcess(pid);
    if (there === undefined || there.zombie || there.startTicks !== startTicks) return true;
    if (performance.now() >= until) return false;
    await sleep(10);
  }
};

/** Whether something of this process group runs. Its dead for which no one has waited do not count. */
export const groupRuns = async (group: number): Promise<boolean> => {
  try {
    process.kill(-group, 0);
  } catch (error) {
    if (errorCode(error) === 'ESRCH') return false;
  }
  for (const name of await readdir('/proc').catch(() => [])) {
    const found = /^\d+$/.test(name) ? await lookUpProcess(Number(name)) : undefined;
    if (found?.group === group && !found.zombie) return true;
  }
  return false;
};

/**
 * Every living process whose environment holds exactly `NAME=value`. An application's descendants inherit it even when
 * they leave its process group, so this finds what a signal to the group misses.
 */
export const processesWithEnvironment = async (
  name: string,
  value: string,
): Promise<{ pid: number; startTicks: string }[]> => {
  const wanted = Buffer.from(`\0${name}=${value}\0`);
  const names = await readdir('/proc').catch(() => []);
  const found: { pid: number; startTicks: string }[] = [];
  for (const entry of names) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    // Not ours to read, or gone in the meantime: not ours to kill either. Of a process that is stuck in the kernel this
    // may not return.
    const read = () => readFile(`/proc/${pid}/environ`);
    const environment = await lookIntoProcess(read, { msMax: ENVIRONMENT_MS_MAX }).catch(() => undefined);
    if (environment === undefined || !Buffer.concat([Buffer.from('\0'), environment]).includes(wanted)) continue;
    const there = await lookUpProcess(pid);
    if (there !== undefined && !there.zombie) found.push({ pid, startTicks: there.startTicks });
  }
  return found;
};

/**
 * Sends a signal to a process, or with a negative number to its group. One that is gone, or has become another user's,
 * is no error.
 */
export const signalProcess = (pid: number, signal: NodeJS.Signals): void => {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (!['ESRCH', 'EPERM'].includes(errorCode(error))) throw error;
  }
};

/**
 * Runs the one application of this device, as its own process group, and leaves nothing behind.
 *
 * An application whose agent was killed is killed too, and started again, rather than adopted: its output has no reader
 * any more and its exit no parent that would hear of it. It is found by the pid file (pid, start time and machine boot,
 * so that a pid used again is never mistaken for it), and its descendants by a mark in their environment.
 */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, realpath, rm } from 'node:fs/promises';
import { constants } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { oneAtATime } from '#shared/in-turn.ts';
import { machineBootId } from '#shared/machine-uptime.ts';
import type { Limits } from '../config/limits-config.ts';
import type { OutputConfig } from '../config/output-config.ts';
import type { SlotName } from '../domain/slots.ts';
import type { Log } from '../log.ts';
import {
  groupRuns,
  lookUpProcess,
  processEnds,
  processesWithEnvironment,
  signalProcess,
} from '../process/process-table.ts';
import { startChild } from '../process/start-child.ts';
import { asFarAsPossible } from '../process/system-error.ts';
import { applicationEnvironment, resolveCommand } from './application-environment.ts';
import type { DeviceEnvironment } from './application-files.ts';
import { type ApplicationOutput, openApplicationOutput } from './application-output.ts';
import { becoming } from './become.ts';
import { limitScript } from './limits.ts';
import type { ProcessOwner } from './process-owner.ts';

/** What to run. `command[0]` = `node` means the Node that runs the agent. */
export type Application = {
  slot: SlotName;
  command: string[];
  /** The slot's folder: the working directory. */
  folder: string;
  /**
   * From `manifest.run.environment`, and `SLUICE_*`. The agent's own environment is not inherited, but for PATH and the
   * like.
   */
  environment: Record<string, string>;
  /**
   * `restart` after a commit: an exit starts it again, with backoff. `report`, on trial: an exit only calls the
   * listeners.
   */
  onExit: 'restart' | 'report';
};

/**
 * `restartInMs` is null when no one starts it again by itself. A command that cannot be executed exits with 126 or 127,
 * as in a shell.
 */
export type ApplicationExit = {
  slot: SlotName;
  code: number | null;
  signal: NodeJS.Signals | null;
  ranMs: number;
  restartInMs: number | null;
};

export type Supervisor = {
  /**
   * Stops what runs and starts this. `ok: false` when the old one cannot be stopped, or the slot's folder not entered.
   */
  start(application: Application): Promise<{ ok: true } | { ok: false; message: string }>;
  /**
   * What runs at this moment, as the system knows it; null between an exit and the next start. `ranMs`: whatever was done
   * to the clock.
   */
  running(): { slot: SlotName; pid: number; ranMs: number } | null;
  /** After a commit: from now on start it again when it exits. */
  keepRunning(): void;
  /** Called at every exit that `stop` or `start` did not cause. Returns how to stop listening. */
  listen(listener: (exit: ApplicationExit) => void): () => void;
  /** The last lines that the application wrote (stdout and stderr), at most `bytesMax` bytes of them. */
  lastOutput(bytesMax: number): Promise<string>;
  /**
   * SIGTERM to all of it, SIGKILL after `stopMs` to what is left; returns when nothing of it runs any more. Idempotent.
   */
  stop(): Promise<void>;
};

export type SupervisorOptions = {
  /** Of the agent's own state: the pid file `application.json` and the output `application.log` live here. */
  dir: string;
  /** The application's `PORT`, if it has one. */
  port?: number;
  /** From SIGTERM to SIGKILL. Default 5,000. */
  stopMs?: number;
  /**
   * First and longest wait before a restart; running for the longest wait clears the count. Default 1,000 and 60,000.
   */
  backoffMs?: { first: number; max: number };
  /** What the device adds to every application's environment; while it cannot be read nothing is started. */
  environment?: () => Promise<DeviceEnvironment>;
  limits?: Limits;
  /** As whom applications run; the agent's own user unless given. */
  owner?: ProcessOwner | null;
  /** Where its output goes, and how much of it. Default: two files, a few KiB a second. */
  output?: OutputConfig;
  /** The size at which a file of output is rotated. Default 256 KiB. */
  logBytesMax?: number;
  log?: Pick<Log, 'warn'>;
};

const PidFile = z.object({
  pid: z.number().int().min(2),
  startTicks: z.string().max(32),
  machineBoot: z.string().max(64),
});

/** In the environment of everything that a supervisor started; its value is the supervisor's own folder. */
const MARK = 'SLUICE_SUPERVISOR';
const KILL_MS_MAX = 5_000;
/**
 * Waits for a line before it becomes the application, keeping its pid: the pid file is there before the application is.
 * If the agent dies in between, the line never comes, and this ends.
 */
const gate = (limits: Limits): string => `read -r go || exit 125; ${limitScript(limits, '"$0" "$@" </dev/null')}`;

type Child = {
  process: ChildProcess;
  pid: number;
  application: Application;
  startedAt: number;
  exited: Promise<unknown>;
};

/** Opens the supervisor; first kills what a killed agent has left behind. */
export const openSupervisor = async (options: SupervisorOptions): Promise<Supervisor> => {
  await asFarAsPossible(mkdir(options.dir, { recursive: true }));
  const dir = await realpath(options.dir).catch(() => resolve(options.dir));
  const place = { dir, stopMs: options.stopMs ?? 5_000, stuck: new Set<string>() };
  await killOrphan(place);
  const { output: config, logBytesMax: fileBytesMax, log } = options;
  const output = await openApplicationOutput({
    dir: place.dir,
    ...(config === undefined ? {} : { config }),
    ...(fileBytesMax === undefined ? {} : { fileBytesMax }),
    ...(log === undefined ? {} : { log }),
  });
  return supervise(place, output, options);
};

/** `stuck`: what has outlived its SIGKILL, and is not waited for again. */
type Place = { dir: string; stopMs: number; stuck: Set<string> };
const pidFileOf = (place: Place): string => join(place.dir, 'application.json');

const supervise = (place: Place, output: ApplicationOutput, options: SupervisorOptions): Supervisor => {
  const backoff = options.backoffMs ?? { first: 1_000, max: 60_000 };
  const listeners = new Set<(exit: ApplicationExit) => void>();
  let wanted: Application | null = null;
  let child: Child | null = null;
  let restart: NodeJS.Timeout | undefined;
  let crashes = 0;
  /** What an application that ended by itself has left of its group, until that has ended too. */
  let leaving: Promise<unknown> = Promise.resolve();
  /** Starts and stops. */
  const inTurn = oneAtATime();

  const scheduleRestart = (): number => {
    const waitMs = Math.min(backoff.max, backoff.first * 2 ** Math.min(crashes, 30));
    crashes += 1;
    clearTimeout(restart);
    restart = setTimeout(() => {
      void inTurn(async () => {
        if (wanted === null || child !== null) return;
        if (!(await start(wanted)).ok) scheduleRestart();
      }).catch(scheduleRestart);
    }, waitMs);
    return waitMs;
  };

  const start = async (application: Application): Promise<{ ok: true } | { ok: false; message: string }> => {
    await leaving;
    const started = await launch(application, place, output, options);
    if (!started.ok) return started;
    child = started.child;
    void child.exited.catch(() => undefined).then(() => ended(started.child));
    return { ok: true };
  };

  const ended = (gone: Child): void => {
    const { exitCode: code, signalCode: signal } = gone.process;
    const ranMs = ranMsOf(gone);
    output.note(`slot ${gone.application.slot} ended after ${ranMs} ms: ${signal ?? `exit code ${code}`}`);
    if (child !== gone) return;
    child = null;
    // It must not live on, or hold the port against its successor; but it may have something to write.
    leaving = endGroup(gone.pid, place.stopMs);
    if (wanted === null) return;
    if (ranMs >= backoff.max) crashes = 0;
    const restartInMs = wanted.onExit === 'restart' ? scheduleRestart() : null;
    for (const listener of listeners) listener({ slot: gone.application.slot, code, signal, ranMs, restartInMs });
  };

  const halt = async (): Promise<boolean> => {
    clearTimeout(restart);
    wanted = null;
    const old = child;
    child = null;
    const stopped = old === null || (await endApplication(place, old));
    await leaving;
    await sweep(place);
    if (stopped) await forget(place);
    return stopped;
  };

  return {
    start: (application) =>
      inTurn(async () => {
        if (!(await halt())) return { ok: false, message: 'the application that runs cannot be stopped' };
        wanted = application;
        crashes = 0;
        const started = await start(application);
        // What keeps it from starting may be put right.
        if (!started.ok && application.onExit === 'restart') scheduleRestart();
        return started;
      }),
    running: () => {
      // A child that was not waited for keeps its pid, so this cannot be someone else's.
      const alive = child !== null && child.process.exitCode === null && child.process.signalCode === null;
      return alive ? { slot: child!.application.slot, pid: child!.pid, ranMs: ranMsOf(child!) } : null;
    },
    keepRunning: () => {
      if (wanted === null || wanted.onExit === 'restart') return;
      wanted = { ...wanted, onExit: 'restart' };
      if (child === null) scheduleRestart();
    },
    listen: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    lastOutput: async (bytesMax) => output.last(bytesMax),
    stop: () =>
      inTurn(async () => {
        await halt();
        await output.close();
      }),
  };
};

const launch = async (
  application: Application,
  place: Place,
  output: ApplicationOutput,
  { port, environment, limits, owner }: SupervisorOptions,
): Promise<{ ok: true; child: Child } | { ok: false; message: string }> => {
  const added = (await environment?.()) ?? { ok: true as const, values: {} };
  if (!added.ok) return added;
  const variables = { ...application.environment, ...added.values };
  const command = ['/bin/sh', '-c', gate(limits ?? {}), ...resolveCommand(application.command)];
  const env = { ...applicationEnvironment(variables, port), [MARK]: place.dir };
  const { words, input, ...how } = asOwner(owner ?? null, command, env);
  const child = startChild(words[0]!, words.slice(1), {
    cwd: application.folder,
    detached: true,
    stdio: ['pipe', 'pipe', 'pipe'],
    ...how,
  });
  if (!child.ok) return { ok: false, message: `the application cannot be started: ${String(child.error)}` };
  const { child: started } = child;
  const exited = once(started, 'exit');
  const failed = await Promise.race([once(started, 'spawn'), exited]).then(
    () => undefined,
    (error: unknown) => String(error),
  );
  if (failed !== undefined || started.pid === undefined) {
    exited.catch(() => undefined);
    return { ok: false, message: `${application.folder}: ${failed}` };
  }
  const { pid, stdin, stdout, stderr } = started;
  for (const stream of [stdout, stderr]) stream?.on('data', (bytes: Buffer) => output.write(bytes));
  output.note(`slot ${application.slot} started as process ${pid}`);
  stdin?.write(input);
  await recordProcess(place, pid);
  stdin?.end('go\n');
  return { ok: true, child: { process: started, pid, application, startedAt: performance.now(), exited } };
};

const ranMsOf = ({ startedAt }: Child): number => Math.round(performance.now() - startedAt);

/** What `spawn` can do by itself it does. `input` comes before the line that opens the gate. */
const asOwner = (owner: ProcessOwner | null, words: string[], env: Record<string, string>) => {
  if (owner === null) return { words, env, input: '' };
  const { uid, gid, groups } = owner;
  if (groups.length === 0) return { words, env, input: '', uid, gid };
  // Nothing of the release's environment before it is the user's.
  const { PATH, [MARK]: mark } = env;
  return { ...becoming(owner, words, env), env: { PATH, [MARK]: mark } };
};

const recordProcess = async (place: Place, pid: number): Promise<void> => {
  const there = await lookUpProcess(pid);
  if (there === undefined) return;
  const record = { pid, startTicks: there.startTicks, machineBoot: await machineBootId() };
  try {
    await writeFileDurably(pidFileOf(place), JSON.stringify(record));
  } catch {
    // A full disk must not keep the device's application down (faults 18); the mark still finds its processes.
  }
};

/** Looked up again after so long, and more and more rarely. */
const LOOK_MS = { first: 10, max: 100 };

/** Whether it comes to be true within `msMax`. */
const within = async (msMax: number, isTrue: () => Promise<boolean>): Promise<boolean> => {
  const until = performance.now() + msMax;
  for (let waitMs = LOOK_MS.first; !(await isTrue()); waitMs = Math.min(LOOK_MS.max, 2 * waitMs)) {
    const leftMs = until - performance.now();
    if (leftMs <= 0) return false;
    await sleep(Math.min(waitMs, leftMs));
  }
  return true;
};

/**
 * SIGTERM, and after `stopMs` SIGKILL to what is left: of the whole group, since a shell that started the application
 * may end at once and leave it writing. False when something outlives even that: it is stuck in the kernel.
 */
const endGroup = async (group: number, stopMs: number): Promise<boolean> => {
  const hasEnded = async (): Promise<boolean> => !(await groupRuns(group));
  signalProcess(-group, 'SIGTERM');
  if (await within(stopMs, hasEnded)) return true;
  signalProcess(-group, 'SIGKILL');
  return within(KILL_MS_MAX, hasEnded);
};

/** Also asks what has left its group, which the sweep afterwards would kill. */
const endApplication = async (place: Place, { pid }: Child): Promise<boolean> => {
  const [stopped] = await Promise.all([endGroup(pid, place.stopMs), askToEnd(place, pid)]);
  return stopped;
};

/** SIGTERM to whatever carries the mark, outside of that group; waits until it has ended, `stopMs` at most. */
const askToEnd = async (place: Place, group: number | null): Promise<void> => {
  const marked = await processesWithEnvironment(MARK, place.dir);
  const found = await Promise.all(
    marked.map(async (one) => ({ ...one, group: (await lookUpProcess(one.pid))?.group })),
  );
  const asked = found.filter((one) => one.group !== group && !place.stuck.has(`${one.pid} ${one.startTicks}`));
  for (const { pid } of asked) signalProcess(pid, 'SIGTERM');
  await Promise.all(asked.map(({ pid, startTicks }) => processEnds(pid, startTicks, place.stopMs)));
};

const killOrphan = async (place: Place): Promise<void> => {
  const text = await readFileIfThere(pidFileOf(place));
  const known = text === undefined ? undefined : parsePidFile(text.toString('utf8'));
  const leads = known !== undefined && known.machineBoot === (await machineBootId());
  const isThere = leads && !(await processEnds(known.pid, known.startTicks, 0));
  await Promise.all([
    isThere ? endGroup(known.pid, place.stopMs) : undefined,
    askToEnd(place, isThere ? known.pid : null),
  ]);
  await sweep(place);
  await forget(place);
};

/** On a disk that cannot be written it stays: its process and boot are in it, so that it names no one else. */
const forget = (place: Place): Promise<void> => asFarAsPossible(rm(pidFileOf(place), { force: true }));

const parsePidFile = (text: string): z.infer<typeof PidFile> | undefined => {
  try {
    return PidFile.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
};

/**
 * Kills whatever still carries the mark, again while it forks: descendants that left the group, or the whole
 * application if its pid file was lost.
 */
const sweep = async (place: Place): Promise<void> => {
  for (let round = 0; round < 20; round += 1) {
    const marked = await processesWithEnvironment(MARK, place.dir);
    const left = marked.filter(({ pid, startTicks }) => !place.stuck.has(`${pid} ${startTicks}`));
    if (left.length === 0) return;
    for (const { pid } of left) signalProcess(pid, 'SIGKILL');
    await Promise.all(
      left.map(async ({ pid, startTicks }) => {
        if (!(await processEnds(pid, startTicks, KILL_MS_MAX))) place.stuck.add(`${pid} ${startTicks}`);
      }),
    );
  }
};

/** Why an application ended, as a sentence. */
export const exitSentence = (exit: Pick<ApplicationExit, 'code' | 'signal'>): string => {
  if (exit.signal !== null) return `the application was ended by ${exit.signal}`;
  if (exit.code === 125) return 'the application exited with code 125: perhaps its limits, or its user, cannot be set';
  if (exit.code === 127) return 'the application exited with code 127: its command was not found';
  if (exit.code === 126) return 'the application exited with code 126: its command cannot be executed';
  const killed = Object.entries(constants.signals).find(([, number]) => exit.code === 128 + number);
  return `the application exited with code ${exit.code}${killed === undefined ? '' : ` (perhaps ${killed[0]})`}`;
};

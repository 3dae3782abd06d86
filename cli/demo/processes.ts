/** The demo's real processes: a server and its agents, each `sluice` itself, none of which outlives the demo. */
import { type ChildProcess, fork } from 'node:child_process';
import { type FileHandle, open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CliFailure } from '../failure.ts';

/** Longer than an agent waits for its application: whatever still runs when this is over stays. */
const STOP_MS_MAX = 30_000;
const SLUICE = join(import.meta.dirname, '..', 'sluice.mjs');

export type Processes = {
  /** Starts `sluice <arguments>`; its output goes to `<name>.log`. */
  start(name: string, arguments_: string[]): Promise<Process>;
  /** Rejects as soon as any of them ends without having been asked to. */
  failure: Promise<never>;
  /** Asks all of them to end, the newest first, and makes them if they do not. */
  stop(): Promise<void>;
};
type Process = {
  pid: number;
  log: string;
  /** The first message that it sends. */
  ready: Promise<unknown>;
};

type Running = { name: string; child: ChildProcess; log: string; output: FileHandle; exit: Promise<void> };

/**
 * What they inherit: enough to run, and none of the user's own SLUICE_* settings. They find each other on this machine,
 * without a proxy.
 */
const cleanEnvironment = (): NodeJS.ProcessEnv =>
  Object.fromEntries(
    Object.entries(process.env).filter(
      ([name]) => !name.startsWith('SLUICE_') && !name.startsWith('NODE_') && !/_proxy$/i.test(name),
    ),
  );

export const openProcesses = (logFolder: string): Processes => {
  const all: Running[] = [];
  let stopping = false;
  let fail: (error: Error) => void = () => {};
  const failure = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failure.catch(() => {}); // A caller that waits hears it; no other has to.
  return {
    failure,
    start: async (name, arguments_) => {
      const log = join(logFolder, `${name}.log`);
      const output = await open(log, 'a');
      // In a process group of its own: a Ctrl-C in the terminal reaches the demo alone, which then ends them in order.
      const child = fork(SLUICE, arguments_, {
        execArgv: ['--disable-warning=ExperimentalWarning'],
        env: cleanEnvironment(),
        stdio: ['ignore', output.fd, output.fd, 'ipc'],
        detached: true,
      });
      const ready = new Promise<unknown>((resolve) => child.once('message', resolve));
      const exit = new Promise<void>((resolve) => {
        child.once('error', fail);
        child.once('exit', (code, signal) => {
          resolve();
          if (!stopping) void describeEnd(name, log, code ?? signal).then((message) => fail(new CliFailure(message)));
        });
      });
      all.push({ name, child, log, output, exit });
      return { pid: child.pid ?? 0, log, ready };
    },
    stop: async () => {
      stopping = true;
      // Agents before the server, so that none of them has to notice that it is gone.
      const server = all.slice(0, 1);
      await Promise.all(all.slice(1).map(end));
      await Promise.all(server.map(end));
    },
  };
};

const end = async ({ child, output, exit }: Running): Promise<void> => {
  child.kill('SIGTERM');
  const timer = setTimeout(() => {
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  }, STOP_MS_MAX);
  await (child.exitCode === null && child.signalCode === null ? exit : undefined);
  clearTimeout(timer);
  if (child.connected) child.disconnect();
  await output.close();
};

const describeEnd = async (name: string, log: string, why: number | NodeJS.Signals | null): Promise<string> => {
  const lines = (await readFile(log, 'utf8').catch(() => '')).trimEnd().split('\n').slice(-12);
  return [`${name} ended unexpectedly (${String(why)}). The end of its log:`, ...lines.map((line) => `  ${line}`)].join(
    '\n',
  );
};

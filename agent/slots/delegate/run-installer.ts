/** Runs an installer to its end: bounded in time and output, with its progress, and nothing of it left behind. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { lookUpProcess, processEnds, processesWithEnvironment, signalProcess } from '#agent/process-table.ts';
import { startChild } from '#agent/start-child.ts';
import { applicationEnvironment, resolveCommand } from '#agent/supervisor.ts';
import { errorCode } from '#agent/system-error.ts';

const ANSWER_BYTES_MAX = 64 * 1024;
const SAID_BYTES_MAX = 2 * 1024;
/** Nobody has so much to say: it goes round in circles. */
const OUTPUT_BYTES_MAX = 16 * 1024 * 1024;
const LINE_BYTES_MAX = 256;
const PIPE_MS_MAX = 1_000;
const END_MS_MAX = 5_000;
/** In its environment, and so in that of all its descendants: the folder of the pair that it works for. */
const MARK = 'SLUICE_DELEGATE';

export type InstallerRun = {
  command: string[];
  words: string[];
  /** The pair's own, where it runs. */
  dir: string;
  environment: Record<string, string>;
  timeoutMs: number;
  signal?: AbortSignal | undefined;
  onProgress?: (percent: number) => void;
};

/** `answer` is all of its standard output, `said` the end of both, for people. `exitCode` is null when it was killed, or never ran. */
export type InstallerEnd = { exitCode: number | null; answer: string; said: string; why: string };

/** `progress 42`, or as RAUC says it: ` 42% Copying image`. */
export const progressOf = (line: string): number | undefined => {
  const found = /^progress (\d{1,3})\s*$/.exec(line) ?? /^\s*(\d{1,3})% /.exec(line);
  const percent = Number(found?.[1] ?? Number.NaN);
  return percent <= 100 ? percent : undefined;
};

/** Never rejects. Nothing of it runs any more when it resolves. */
export const runInstaller = async (run: InstallerRun): Promise<InstallerEnd> => {
  const { signal } = run;
  const [word, ...rest] = resolveCommand([...run.command, ...run.words]);
  if (signal?.aborted === true) return { exitCode: null, answer: '', said: '', why: 'stopped' };
  const unable = (error: unknown): string => `${word} cannot be run: ${errorCode(error) || String(error)}`;
  const started = startChild(word!, rest, {
    cwd: run.dir,
    detached: true,
    env: { ...applicationEnvironment(run.environment, undefined), [MARK]: run.dir },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  if (!started.ok) return { exitCode: null, answer: '', said: '', why: unable(started.error) };
  const { child } = started;
  const output = listenTo(child, run.onProgress, () => end('it wrote too much'));
  const closed = once(child, 'close').catch(() => undefined);
  let why = '';
  const end = (reason: string): void => {
    why ||= reason;
    if (child.pid !== undefined) signalProcess(-child.pid, 'SIGKILL');
  };
  const stop = (): void => end('stopped');
  const timer = setTimeout(() => end(`it did not end within ${run.timeoutMs} ms`), run.timeoutMs);
  signal?.addEventListener('abort', stop);
  try {
    await once(child, 'exit');
    // What it has left running in its group, and where it did not end by itself, out of it as well.
    signalProcess(-child.pid!, 'SIGKILL');
    if (why !== '') await endInstallers(run.dir);
    await Promise.race([closed, sleep(PIPE_MS_MAX, undefined, { ref: false })]);
    const { exitCode, signalCode } = child;
    if (why === '') why = exitCode === null ? `it was ended by ${signalCode}` : `it ended with exit code ${exitCode}`;
    else return { exitCode: null, ...output(), why };
    return { exitCode, ...output(), why };
  } catch (error) {
    return { exitCode: null, ...output(), why: unable(error) };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', stop);
    child.stdout?.destroy();
    child.stderr?.destroy();
  }
};

/** Ends whatever runs for this pair: of a verb that has ended, or of an agent that was killed. */
export const endInstallers = async (dir: string): Promise<void> => {
  for (const { pid, startTicks } of await processesWithEnvironment(MARK, dir)) {
    // A pid alone says little: it may be another's by now.
    if ((await lookUpProcess(pid))?.startTicks !== startTicks) continue;
    signalProcess(pid, 'SIGKILL');
    await processEnds(pid, startTicks, END_MS_MAX);
  }
};

const listenTo = (child: ChildProcess, onProgress: InstallerRun['onProgress'], tooMuch: () => void) => {
  let [answer, said, line, bytes] = ['', '', '', 0];
  let answerIsWhole = true;
  const hear = (text: string): void => {
    bytes += text.length;
    if (bytes > OUTPUT_BYTES_MAX) tooMuch();
    said = (said + text).slice(-SAID_BYTES_MAX);
  };
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    hear(text);
    if (answer.length + text.length <= ANSWER_BYTES_MAX) answer += text;
    else answerIsWhole = false;
    const lines = (line + text).split('\n');
    // A line without end is none of ours.
    line = lines.pop()!.slice(0, LINE_BYTES_MAX);
    for (const whole of lines) {
      const percent = progressOf(whole);
      if (percent !== undefined) onProgress?.(percent);
    }
  });
  child.stderr?.setEncoding('utf8').on('data', hear);
  return () => ({ answer: answerIsWhole ? answer : '', said: said.trim() });
};

/** Runs an installer to its end: bounded in time and output, with its progress, and nothing of it left behind. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { applicationEnvironment, resolveCommand } from '#agent/application/application-environment.ts';
import { startBounded, whyNotRun } from '#agent/process/bounded-child.ts';
import { lookUpProcess, processEnds, processesWithEnvironment, signalProcess } from '#agent/process/process-table.ts';

const ANSWER_BYTES_MAX = 64 * 1024;
const SAID_BYTES_MAX = 2 * 1024;
/** No one has so much to say: it goes round in circles. */
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

/**
 * `answer` is all of its standard output, `said` the end of both, for people. `exitCode` is null when it was killed, or
 * never ran.
 */
export type InstallerEnd = { exitCode: number | null; answer: string; said: string; why: string };

/** `progress 42`, or as RAUC says it: ` 42% Copying image`. */
export const progressOf = (line: string): number | undefined => {
  const found = /^progress (\d{1,3})\s*$/.exec(line) ?? /^\s*(\d{1,3})% /.exec(line);
  const percent = Number(found?.[1] ?? Number.NaN);
  return percent <= 100 ? percent : undefined;
};

/** Never rejects. Nothing of it runs any more when it resolves, but for what cannot be killed. */
export const runInstaller = async (run: InstallerRun): Promise<InstallerEnd> => {
  const command = resolveCommand([...run.command, ...run.words]);
  const [word] = command;
  const never = (why: string): InstallerEnd => ({ exitCode: null, answer: '', said: '', why });
  if (run.signal?.aborted === true) return never('stopped');
  const tooMuch = new AbortController();
  const { timeoutMs } = run;
  const signal = AbortSignal.any([tooMuch.signal, ...(run.signal === undefined ? [] : [run.signal])]);
  const env = { ...applicationEnvironment(run.environment, undefined), [MARK]: run.dir };
  const started = await startBounded(
    command,
    { cwd: run.dir, env, stdio: ['ignore', 'pipe', 'pipe'] },
    { timeoutMs, signal },
  );
  if (!started.ok) return never(`${word} ${started.why}`);
  const { child } = started;
  const output = listenTo(child, run.onProgress, () => tooMuch.abort());
  const closed = once(child, 'close').catch(() => undefined);
  try {
    const end = await started.ended;
    // What it has left running out of its group, where it did not end by itself.
    if (end !== 'by-itself') await endInstallers(run.dir);
    await Promise.race([closed, sleep(PIPE_MS_MAX, undefined, { ref: false })]);
    const { exitCode, signalCode } = child;
    if (end === 'too-late') return { exitCode: null, ...output(), why: `it did not end within ${timeoutMs} ms` };
    if (tooMuch.signal.aborted) return { exitCode: null, ...output(), why: 'it wrote too much' };
    if (end === 'aborted') return { exitCode: null, ...output(), why: 'stopped' };
    const why = exitCode === null ? `it was ended by ${signalCode}` : `it ended with exit code ${exitCode}`;
    return { exitCode, ...output(), why };
  } catch (error) {
    return { exitCode: null, ...output(), why: `${word} ${whyNotRun(error)}` };
  } finally {
    child.stdout?.destroy();
    child.stderr?.destroy();
  }
};

/** Ends whatever runs for this pair: of a verb that has ended, or of an agent that was killed. */
export const endInstallers = async (dir: string): Promise<void> => {
  const left = await processesWithEnvironment(MARK, dir);
  await Promise.all(
    left.map(async ({ pid, startTicks }) => {
      // A pid alone says little: it may be another's by now.
      if ((await lookUpProcess(pid))?.startTicks !== startTicks) return;
      signalProcess(pid, 'SIGKILL');
      await processEnds(pid, startTicks, END_MS_MAX);
    }),
  );
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

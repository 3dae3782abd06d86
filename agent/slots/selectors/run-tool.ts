/** Runs a boot loader's tool to its end. */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { startBounded, whyNotRun } from '#agent/process/bounded-child.ts';
import { errorCode } from '#agent/process/system-error.ts';
import { SelectorFailed } from './selector.ts';

const TOOL_MS_MAX = 20_000;
const PIPE_MS_MAX = 1_000;
const OUTPUT_CHARS_MAX = 4 * 1024 * 1024;

/** What it wrote to standard output. Throws `SelectorFailed` when it is not there, fails, or takes too long. */
export const runTool = async (command: string, words: string[]): Promise<string> => {
  const fail = (why: string, cause?: unknown): never => {
    throw new SelectorFailed(`${command} failed: ${why}`, { cause });
  };
  const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin:/usr/bin:/bin`;
  const tooMuch = new AbortController();
  const started = await startBounded(
    [command, ...words],
    { env: { PATH: path, LC_ALL: 'C' }, stdio: ['ignore', 'pipe', 'pipe'] },
    { timeoutMs: TOOL_MS_MAX, signal: tooMuch.signal },
  );
  if (!started.ok) return fail(started.why);
  const { child } = started;
  const said = { stdout: '', stderr: '' };
  const closed = (['stdout', 'stderr'] as const).map((name) => {
    child[name]?.setEncoding('utf8').on('data', (text: string) => {
      said[name] += text;
      if (said[name].length > OUTPUT_CHARS_MAX) tooMuch.abort();
    });
    return once(child[name]!, 'close');
  });
  try {
    const end = await started.ended.catch((error: unknown) =>
      fail(errorCode(error) === 'ENOENT' ? 'it is not installed' : whyNotRun(error), error),
    );
    await Promise.race([Promise.allSettled(closed), sleep(PIPE_MS_MAX, undefined, { ref: false })]);
    if (end === 'by-itself' && child.exitCode === 0) return said.stdout;
    const how =
      end === 'too-late' ? `it did not end within ${TOOL_MS_MAX} ms` : end === 'aborted' ? 'it wrote too much' : '';
    return fail(
      how || said.stderr.trim().slice(0, 500) || `it ended with ${child.signalCode ?? `exit code ${child.exitCode}`}`,
    );
  } finally {
    child.stdout?.destroy();
    child.stderr?.destroy();
  }
};

/**
 * Runs one command to its end: a health check or a hook. Bounded in time and output, and its whole process group ends
 * with it.
 */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { startBounded, whyNotRun } from '../process/bounded-child.ts';
import { applicationEnvironment, resolveCommand } from './application-environment.ts';
import { CUT } from './redact.ts';

const OUTPUT_BYTES_MAX = 4096;
const PIPE_MS_MAX = 1_000;

export type CommandOptions = {
  /** `node` as the first report is the Node that runs the agent. */
  command: string[];
  folder: string;
  /** Added to the little that applications get, see `applicationEnvironment`. */
  environment?: Record<string, string>;
  port?: number;
  timeoutMs: number;
  signal?: AbortSignal;
};

/**
 * `output` is the end of what it wrote, at most 4 KiB. `ok` is exit code 0; `exitCode` is null when it was killed or
 * never ran.
 */
export type CommandResult =
  | { ok: true; output: string }
  | { ok: false; message: string; exitCode: number | null; output: string };

/** Never rejects. When it resolves everything of the command's group has ended, but for what cannot be killed. */
export const runCommand = async (options: CommandOptions): Promise<CommandResult> => {
  const [word, ...rest] = resolveCommand(options.command);
  const failed = (message: string, exitCode: number | null = null): CommandResult => ({
    ok: false,
    message,
    exitCode,
    output: said(),
  });
  let output: Buffer = Buffer.alloc(0);
  let isCut = false;
  const said = (): string => `${isCut ? CUT : ''}${output.toString('utf8')}`;
  if (options.signal?.aborted === true) return failed('stopped');
  const { timeoutMs, signal } = options;
  const started = await startBounded(
    [word!, ...rest],
    {
      cwd: options.folder,
      env: applicationEnvironment(options.environment ?? {}, options.port),
      stdio: ['ignore', 'pipe', 'pipe'],
    },
    { timeoutMs, signal },
  );
  if (!started.ok) return failed(`${word} ${started.why}`);
  const { child } = started;
  const keep = (bytes: Buffer): void => {
    const all = Buffer.concat([output, bytes]);
    isCut ||= all.length > OUTPUT_BYTES_MAX;
    output = all.subarray(Math.max(0, all.length - OUTPUT_BYTES_MAX));
  };
  child.stdout?.on('data', keep);
  child.stderr?.on('data', keep);
  const closed = once(child, 'close').catch(() => undefined);
  try {
    const end = await started.ended;
    if (end === 'too-late') return failed(`${word} did not end within ${timeoutMs} ms`);
    if (end === 'aborted') return failed('stopped');
    // What it has written may still be in the pipe; a descendant that left the group and holds the pipe must not hold
    // us.
    await Promise.race([closed, sleep(PIPE_MS_MAX, undefined, { ref: false })]);
    const { exitCode: code, signalCode } = child;
    if (code === 0) return { ok: true, output: said() };
    return failed(`${word} ended with ${signalCode ?? `exit code ${code}`}`, code);
  } catch (error) {
    return failed(`${word} ${whyNotRun(error)}`);
  } finally {
    child.stdout?.destroy();
    child.stderr?.destroy();
  }
};

/** Runs a boot loader's tool to its end. */
import { execFile } from 'node:child_process';
import { SelectorFailed } from './selector.ts';

const TOOL_MS_MAX = 20_000;
const OUTPUT_BYTES_MAX = 4 * 1024 * 1024;

/** What it wrote to standard output. Throws `SelectorFailed` when it is not there, fails, or takes too long. */
export const runTool = (command: string, words: string[]): Promise<string> =>
  run(command, words).catch((error: unknown) => {
    if (error instanceof SelectorFailed) throw error;
    // It could not even be started.
    throw new SelectorFailed(`${command} failed: ${String(error)}`, { cause: error });
  });

const run = (command: string, words: string[]): Promise<string> =>
  new Promise((resolve, reject) => {
    const path = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin:/usr/bin:/bin`;
    const options = { env: { PATH: path, LC_ALL: 'C' }, timeout: TOOL_MS_MAX, maxBuffer: OUTPUT_BYTES_MAX };
    execFile(command, words, options, (error, stdout, stderr) => {
      if (error === null) return resolve(stdout);
      const why = error.code === 'ENOENT' ? 'it is not installed' : stderr.trim().slice(0, 500) || error.message;
      reject(new SelectorFailed(`${command} failed: ${why}`, { cause: error }));
    });
  });

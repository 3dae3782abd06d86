/** Runs the real command as a process of its own, as a script would. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';

const SLUICE = join(import.meta.dirname, '..', '..', 'cli', 'sluice.mjs');
export type Ran = { code: number | null; out: string; err: string };

/** None of the tester's own settings, but those in `environment`. */
export const runSluice = (
  arguments_: string[],
  options: { environment?: Record<string, string>; cwd?: string; input?: string } = {},
): Promise<Ran> =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [SLUICE, ...arguments_], {
      cwd: options.cwd,
      env: { PATH: process.env['PATH'], HOME: '/nonexistent', ...options.environment },
      stdio: 'pipe',
    });
    let out = '';
    let err = '';
    child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, out, err }));
    child.stdin.end(options.input ?? '');
  });

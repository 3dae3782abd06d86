/** `npm run test:sweeps`: every sweep in full (test/sweep.ts). Arguments go to the test runner. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';

const VITEST = join(import.meta.dirname, '../node_modules/vitest/vitest.mjs');

const runner = spawn(process.execPath, [VITEST, 'run', ...process.argv.slice(2)], {
  stdio: 'inherit',
  env: { ...process.env, SLUICE_SWEEPS: 'all' },
});
runner.on('exit', (code) => {
  process.exitCode = code ?? 1;
});

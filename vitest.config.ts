import { globSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { defineConfig } from 'vitest/config';
import { ALL_SWEEPS } from './test/sweep.ts';

// Inherited by vitest's own workers and by every process and thread that a test starts: most of the time that those
// need to start is for compiling the same modules again.
process.env['NODE_COMPILE_CACHE'] ??= join(import.meta.dirname, 'node_modules', '.cache', 'node');

// Tests talk to this machine alone, whatever the one who runs them needs to reach others.
for (const name of Object.keys(process.env)) if (/_proxy$/i.test(name)) delete process.env[name];

/** These take over the clock and the file system of their process. */
const ALONE = ['test/crashes/**/*.test.ts', 'test/simulation/**/*.test.ts', 'test/agent/every-write.test.ts'];
/** These start processes, and wait for them. */
const PROCESSES = [
  'test/{agent,cli}/**/*.test.ts',
  'test/server/*.test.ts',
  'test/server/store/{lock,worker}.test.ts',
  'test/server/http/site-cache.test.ts',
  'test/{demo,scripts}.test.ts',
];
/** Where sweeps are run in full, only what has some. */
const files = globSync('test/**/*.test.ts', { cwd: import.meta.dirname });
const isSwept = (file: string): boolean => readFileSync(join(import.meta.dirname, file), 'utf8').includes("/sweep.ts'");
const WITHOUT_SWEEPS = ALL_SWEEPS ? files.filter((file) => !isSwept(file)) : [];

// Loading the modules of the system again for each file would take as long as most files do: all share their workers
// but those above.
export default defineConfig({
  test: {
    // Real processes, sockets and disks: slow machines that do other things too get time, a hang still ends.
    testTimeout: 240_000,
    hookTimeout: 240_000,
    teardownTimeout: 10_000,
    expect: { poll: { timeout: 60_000 } },
    // Many tests wait for processes and disks rather than compute.
    maxWorkers: availableParallelism() + 2,
    isolate: false,
    // In the order of their names: the longest files first, so that nothing waits for one of them in the end.
    projects: [
      { extends: true, test: { name: 'alone', include: ALONE, exclude: WITHOUT_SWEEPS, isolate: true } },
      {
        extends: true,
        test: {
          name: 'processes',
          include: PROCESSES,
          exclude: [...ALONE, ...WITHOUT_SWEEPS],
          globalSetup: 'test/built-agent.ts',
        },
      },
      {
        extends: true,
        test: {
          name: 'quick',
          include: ['test/**/*.test.ts'],
          exclude: [...ALONE, ...PROCESSES, ...WITHOUT_SWEEPS],
          setupFiles: process.env['SLUICE_QUICK'] === undefined ? [] : ['test/no-processes.ts'],
        },
      },
    ],
  },
});

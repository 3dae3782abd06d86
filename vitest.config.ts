import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { defineConfig } from 'vitest/config';

// Inherited by vitest's own workers and by every process and thread that a test starts: most of the time that those need
// to start is for compiling the same modules again.
process.env['NODE_COMPILE_CACHE'] ??= join(import.meta.dirname, 'node_modules', '.cache', 'node');

/** These take over the clock and the file system of their process. */
const SIMULATED = ['test/crashes/**/*.test.ts', 'test/simulation/**/*.test.ts'];

export default defineConfig({
  test: {
    // Real processes, sockets and disks: slow machines get time, a hang still ends.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 10_000,
    expect: { poll: { timeout: 30_000 } },
    // Many tests wait for processes and disks rather than compute.
    maxWorkers: availableParallelism() + 2,
    projects: [
      { extends: true, test: { name: 'simulated', include: SIMULATED } },
      {
        extends: true,
        test: {
          name: 'real',
          include: ['test/**/*.test.ts'],
          exclude: SIMULATED,
          globalSetup: 'test/built-agent.ts',
          // Loading the modules of the system anew for each file takes as long as most files do.
          isolate: false,
        },
      },
    ],
  },
});

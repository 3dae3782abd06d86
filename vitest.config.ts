import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { defineConfig } from 'vitest/config';

// Inherited by vitest's own workers and by every process and thread that a test starts: most of the time that those need
// to start is for compiling the same modules again.
process.env['NODE_COMPILE_CACHE'] ??= join(import.meta.dirname, 'node_modules', '.cache', 'node');

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: 'test/built-agent.ts',
    // Real processes, sockets and disks: slow machines get time, a hang still ends.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 10_000,
    // Many tests wait for processes and disks rather than compute.
    maxWorkers: availableParallelism() + 2,
  },
});

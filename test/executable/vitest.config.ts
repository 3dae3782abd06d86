import { join } from 'node:path';
import { defineConfig } from 'vitest/config';

/** `npm run test:executable`: the agent as a single executable, through its whole way. Building it takes a while. */
export default defineConfig({
  test: {
    root: join(import.meta.dirname, '../..'),
    include: ['test/executable/whole-way.ts'],
    testTimeout: 600_000,
    hookTimeout: 600_000,
    disableConsoleIntercept: true,
  },
});

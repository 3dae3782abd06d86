import { join } from 'node:path';
import { defineConfig } from 'vitest/config';

/**
 * `npm run test:package`: the package, built, installed into an empty folder by npm, and used from there. It needs the
 * package registry.
 */
export default defineConfig({
  test: {
    root: join(import.meta.dirname, '../..'),
    include: ['test/package/whole-way.ts'],
    testTimeout: 300_000,
    hookTimeout: 300_000,
    disableConsoleIntercept: true,
  },
});

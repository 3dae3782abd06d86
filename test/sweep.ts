/**
 * Tests that go through many moments, devices or seeds. `npm test` takes a few of each, always the same; `npm run
 * test:sweeps` takes all of them (`SLUICE_SWEEPS=all`), and runs no file that has none. `.ci/run` runs both.
 */
export const ALL_SWEEPS = process.env['SLUICE_SWEEPS'] === 'all';

/** All of the cases, or `few` of them: evenly spread, the first with them. */
export const swept = <T>(cases: readonly T[], few: number): T[] => {
  const step = cases.length / Math.min(few, cases.length);
  return ALL_SWEEPS
    ? [...cases]
    : Array.from({ length: Math.min(few, cases.length) }, (_, at) => cases[Math.floor(at * step)]!);
};

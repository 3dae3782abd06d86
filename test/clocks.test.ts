import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

/**
 * Durations are measured by a clock that no one sets: `performance.now()`, or the machine's uptime where the time
 * asleep counts. The wall clock is for expiry, for records and for people. Where a source reads or subtracts it all the
 * same, here is why.
 */
const READS: Record<string, string> = {
  'agent/application/application-output.ts': 'a date in the application’s log, for people',
  'agent/disk/file-ages.ts':
    'the times of files are the wall clock’s; what it says is checked against the monotonic one',
  'agent/life.ts': 'the one place from which the agent has its wall clock',
  'agent/local/agent-commands.ts': 'the command line: for people',
  'cli/commands/backup.ts': 'dates of records',
  'cli/commands/device.ts': 'ages for people',
  'cli/commands/drift.ts': 'ages for people',
  'cli/commands/release.ts': 'expiry of metadata',
  'cli/commands/rollout-watch.ts': 'a date for people',
  'cli/demo/story.ts': 'expiry of metadata',
  'cli/values.ts': 'a time that a person gives as a distance from now',
  'server/steady-clock.ts': 'the one place from which the server has its wall clock',
  'server/store/objects.ts': 'the times of files are the wall clock’s',
};
const SUBTRACTIONS: Record<string, string> = {
  'agent/transfer/metered.ts': 'the end of an offer is expiry',
  'server/flow/release/collect-garbage.ts': 'how old a record is',
  'server/flow/rollout/follow-cohorts.ts': 'kept over restarts; a clock that was set back makes it look at once',
  'server/housekeeping.ts': 'how old records are, in days',
  'server/flow/device/keep-logs.ts': 'how old records are, in days',
  'server/flow/release/pack-targets.ts': 'how old a record is',
  'server/steady-clock.ts': 'by how much the clock was set',
  'server/store/objects.ts': READS['server/store/objects.ts']!,
};

const sources = ['agent', 'cli', 'server', 'shared'].flatMap((folder) =>
  readdirSync(join(import.meta.dirname, '..', folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => join(folder, file)),
);
const codeOf = (file: string): string =>
  readFileSync(join(import.meta.dirname, '..', file), 'utf8')
    .replace(/\/\*.*?\*\//gs, '')
    .replace(/(^|\s)\/\/.*$/gm, '')
    .replace(/performance\.now\(\)/g, 'monotonic');
const where = (pattern: RegExp): string[] => sources.filter((file) => pattern.test(codeOf(file))).sort();

test('the wall clock is read where these reasons say, and nowhere else', () => {
  expect(where(/\bDate\.now\b|\bnew Date\(\)|\bDate\(\)/)).toEqual(Object.keys(READS).sort());
});

test('no duration is a difference of wall clocks', () => {
  const call = String.raw`\b(?:Date\.now|(?:\w+\.)?now|deps\.now)\(\)`;
  const difference = new RegExp(`${call}\\s*-[^-=>]|-\\s*(?:${call}|new Date\\(\\))|new Date\\(\\)[^\\n;]*\\s-\\s`);
  expect(where(difference)).toEqual(Object.keys(SUBTRACTIONS).sort());
});

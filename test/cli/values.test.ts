import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { pathOf } from '#cli/client.ts';
import { formatBytes, formatDuration, harmless, table } from '#cli/terminal.ts';
import { cohortPlan, duration, moment, pair, readPolicy, wholeNumber } from '#cli/values.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sluice-values-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test('lengths of time are written with a unit', () => {
  expect(['250ms', '90s', '15m', '1.5h', '30d'].map(duration)).toEqual([
    250, 90_000, 900_000, 5_400_000, 2_592_000_000,
  ]);
  for (const wrong of ['', '15', '15 m', '-1s', '1w', 'm']) expect(() => duration(wrong)).toThrow(/length of time/);
});

test('cohorts are written with their waves, in devices or percent', () => {
  expect(cohortPlan('canary')).toEqual({ cohort: 'canary', waves: [{ percent: 100 }] });
  expect(cohortPlan('all=2,12.5%,100%')).toEqual({
    cohort: 'all',
    waves: [{ count: 2 }, { percent: 12.5 }, { percent: 100 }],
  });
  for (const wrong of ['all=', 'all=x', 'all=0', 'all=101%', 'a b=1', '=1']) expect(() => cohortPlan(wrong)).toThrow();
});

test('names, numbers and moments that are no such thing are refused', () => {
  expect(pair('site=a=b')).toEqual(['site', 'a=b']);
  expect(pair('spare=')).toEqual(['spare', '']);
  expect(() => pair('=x')).toThrow();
  expect(() => wholeNumber('1e3')).toThrow();
  expect(moment('2026-12-01T02:00:00Z')).toBe(Date.UTC(2026, 11, 1, 2));
  expect(() => moment('tomorrow')).toThrow();
});

test('a policy is a file with single fields set over it', async () => {
  const file = join(folder, 'policy.yaml');
  await writeFile(file, 'judge: {rule: wave-percentage, percent: 3}\ngate: {soakMs: 1000}\n');
  const policy = await readPolicy(file, [
    ['gate.successShare', '0.5'],
    ['limits.atRiskMax', '7'],
  ]);
  expect(policy).toMatchObject({
    judge: { rule: 'wave-percentage', percent: 3 },
    gate: { soakMs: 1000, successShare: 0.5 },
    limits: { atRiskMax: 7 },
  });
  expect(await readPolicy(undefined, [['judge.budget', '5']])).toMatchObject({
    judge: { rule: 'evidence', budget: 5 },
  });
  await expect(readPolicy(undefined, [['gate.soak', '5']])).rejects.toThrow(/no policy[\s\S]*gate/);
  await expect(readPolicy(undefined, [['__proto__.x', '5']])).rejects.toThrow();
  await expect(readPolicy(join(folder, 'missing.yaml'), [])).rejects.toThrow(/cannot be read/);
});

test('tables align, and nothing in them acts on the terminal', () => {
  expect(
    table(
      ['NAME', 'N'],
      [
        ['a', 1],
        ['bcdefg', 100],
      ],
    ),
  ).toBe('NAME    N\na         1\nbcdefg  100');
  expect(harmless('a\u001b[31mb\u0007\u202ec\n')).toBe('ab\u00b7\u00b7c\u00b7');
});

test('sizes and times are said in words', () => {
  expect([0, 999, 1000, 6_656, 4_294_967_296].map(formatBytes)).toEqual(['0 B', '999 B', '1.0 kB', '6.7 kB', '4.3 GB']);
  expect([400, 80_000, 600_000, 7_200_000, 864_000_000].map(formatDuration)).toEqual([
    '0 s',
    '80 s',
    '10 min',
    '2 h',
    '10 days',
  ]);
});

test('paths and queries are filled in and escaped', () => {
  expect(pathOf('/api/v1/releases/:release', { params: { release: 'gateway@1.0.0+a/b' } })).toBe(
    '/api/v1/releases/gateway%401.0.0%2Ba%2Fb',
  );
  for (const release of ['', '.', '..'])
    expect(() => pathOf('/api/v1/releases/:release', { params: { release } })).toThrow(
      'cannot be the name of a release',
    );
  expect(pathOf('/u/:sha256', { params: { sha256: 'ab' } })).toBe('/u/ab');
  expect(pathOf('/x', { query: { limit: 5, after: undefined, selector: 'site=a b' } })).toBe(
    '/x?limit=5&selector=site%3Da+b',
  );
});

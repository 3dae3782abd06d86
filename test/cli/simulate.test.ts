import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { z } from 'zod';
import { runSluice } from './run.ts';

const Spread = z.strictObject({ mean: z.number(), p95: z.number() });
const Rows = z.array(
  z.strictObject({
    policy: z.string(),
    harmed: Spread,
    exposed: Spread,
    falseHalts: z.number(),
    halted: z.number(),
    minutesTo99: z.number().nullable(),
  }),
);

test('sluice simulate gives one object per policy, and nothing else on either stream', async () => {
  const line = ['simulate', '--fleet', '200', '--failing', '100%', '--runs', '3', '--json'];
  const ran = await runSluice([...line, '--set', 'judge.budget=5', '--compare', 'wave-percentage-5,evidence-10']);
  expect(ran).toMatchObject({ code: 0, err: '' });
  const rows = Rows.parse(JSON.parse(ran.out));
  expect(rows.map(({ policy, harmed, halted }) => [policy, harmed.mean, halted])).toEqual([
    ['policy', 5, 1],
    ['wave-percentage-5', 2, 1],
    ['evidence-10', 10, 1],
  ]);
});

test('sluice simulate compares policies with one another, named for their files', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-simulate-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  await mkdir(join(folder, 'b'));
  const files = ['few.yaml', 'many.yaml', join('b', 'many.yaml')].map((name) => join(folder, name));
  for (const [at, file] of files.entries()) await writeFile(file, `judge: {budget: ${at + 2}}\n`);
  const line = ['simulate', '--fleet', '100', '--failing', '100%', '--runs', '2', '--compare', 'none', '--json'];
  const ran = await runSluice([...line, ...files.flatMap((file) => ['--policy', file])]);
  expect(ran).toMatchObject({ code: 0, err: '' });
  expect(Rows.parse(JSON.parse(ran.out)).map(({ policy, harmed }) => [policy, harmed.mean])).toEqual([
    ['few', 2],
    [expect.stringMatching(/many\.yaml$/), 3],
    [expect.stringMatching(/b\/many\.yaml$/), 4],
  ]);
});

test('sluice simulate refuses what it does not know', async () => {
  expect(await runSluice(['simulate', '--compare', 'luck'])).toMatchObject({
    code: 2,
    err: expect.stringContaining('there is no luck to compare with'),
  });
  expect(await runSluice(['simulate', '--fleet', '0', '--compare', 'none'])).toMatchObject({
    code: 2,
    err: expect.stringContaining('--fleet: '),
  });
});

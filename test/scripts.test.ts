/** The scripts of package.json that take arguments: some run for hours, or write what is kept. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const ROOT = join(import.meta.dirname, '..');
const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { scripts: Record<string, string> };
const NAMES = [
  'bench',
  'bench:delta',
  'plot:judge',
  'table:judge',
  'record:golden',
  'test:vm',
  'explore:crashes',
  'simulate:system',
];

const run = (name: string, argument: string): Promise<{ code: number; out: string; err: string }> => {
  const [, file = ''] = /^node (\S+\.ts)$/.exec(scripts[name] ?? '') ?? [];
  return new Promise((resolve) =>
    execFile(process.execPath, [join(ROOT, file), argument], { timeout: 50_000 }, (error, out, err) =>
      resolve({ code: Number(error?.code ?? 0), out, err }),
    ),
  );
};

test.each(NAMES)(
  'npm run %s says how it is used, or in one line what is wrong, and does nothing then',
  async (name) => {
    const [help, wrong] = await Promise.all([run(name, '--help'), run(name, '--hlep')]);
    expect(help).toEqual({ code: 0, out: expect.stringMatching(`^Usage: npm run ${name} -- `), err: '' });
    expect(wrong).toEqual({ code: 2, out: '', err: expect.stringMatching(/^.*--hlep.*\n$/) });
  },
);

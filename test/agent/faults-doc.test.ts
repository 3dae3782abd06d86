import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const at = (path: string): Promise<string> => readFile(join(import.meta.dirname, '../..', path), 'utf8');

test('each of the 25 cases of docs/faults.md has its tests, by their names', async () => {
  const rows = (await at('docs/faults.md')).split('\n').flatMap((line) => {
    const [, number, , , , tests] = line.split(/(?<!\\)\|/).map((cell) => cell.trim());
    return /^\d+$/.test(number ?? '') ? [{ number: Number(number), tests: tests! }] : [];
  });
  expect(rows.map(({ number }) => number)).toEqual(Array.from({ length: 25 }, (_, index) => index + 1));
  const missing: string[] = [];
  for (const { number, tests } of rows) {
    let names = 0;
    for (const part of tests.split('; ')) {
      const [, file, list] = /^`([\w/.-]+\.test\.ts)`: (.*)$/.exec(part) ?? [];
      if (file === undefined) continue;
      const source = await at(`test/${file}`);
      for (const [, name] of list!.matchAll(/`([^`]+)`/g)) {
        names += 1;
        // In the title of a test, and not of one that is skipped for good.
        const titles = source.split('\n').filter((line) => /^\s*(test|describe)[.(]|^\s*['`]/.test(line));
        if (!titles.some((line) => line.includes(name!))) missing.push(`${number}: ${file}: ${name}`);
      }
    }
    if (names === 0) missing.push(`${number}: no test is named`);
  }
  expect(missing).toEqual([]);
});

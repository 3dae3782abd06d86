import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const at = (path: string): Promise<string> => readFile(join(import.meta.dirname, '../..', path), 'utf8');

test('each of the 27 cases of docs/faults.md is the name of a test in every file that its row tells of', async () => {
  const rows = (await at('docs/faults.md')).split('\n').flatMap((line) => {
    const [, number, what, when, outcome, files] = line.split('|').map((cell) => cell.trim());
    return /^\d+$/.test(number ?? '')
      ? [{ number, name: `${number}: ${what}, ${when}: ${outcome}`, files: files! }]
      : [];
  });
  expect(rows.map(({ number }) => Number(number))).toEqual(Array.from({ length: 27 }, (_, index) => index + 1));
  const missing: string[] = [];
  for (const { name, files } of rows) {
    const paths = [...files.matchAll(/`([\w/.-]+\.ts)`/g)].map(([, path]) => path!);
    if (paths.length === 0) missing.push(`${name}: nowhere`);
    for (const path of paths) {
      // A title, with more behind it perhaps, or of two cases; and not of a test that is skipped for good.
      const titles = (await at(`test/${path}`))
        .split('\n')
        .filter((line) => /^\s*(test|describe)[.(]|^\s*['"`]|^const NAME = /.test(line));
      const begins = (title: string): boolean => ["'", '"', '`', '; '].some((before) => title.includes(before + name));
      if (!titles.some((title) => begins(title) && !/\.(skip|todo)\(/.test(title))) missing.push(`${name}: ${path}`);
    }
  }
  expect(missing).toEqual([]);
});

/**
 * `npm run bench [-- name...] [-- --seconds 2] [-- --mb 10] [-- --json]`: every bench in turn, one table for people or
 * one JSON object for scripts. Each is a module in this folder that exports its `name` and `run()`. Figures are of this
 * machine at this moment; ratios to a floor hold better.
 */
import { globSync } from 'node:fs';
import { basename, join } from 'node:path';
import { table } from '#cli/terminal.ts';
import { readArguments, refuseArguments, wholeNumber } from '#test/arguments.ts';
import type { BenchOptions, Figure } from './figure.ts';

type Bench = { name: string; run(options: BenchOptions): Promise<Figure[]> };

const isBench = (module: object): module is Bench =>
  'name' in module && typeof module.name === 'string' && 'run' in module && typeof module.run === 'function';

const USAGE = `Usage: npm run bench -- [name...] [options]

  name         ${globSync('*.ts', { cwd: import.meta.dirname })
    .map((file) => basename(file, '.ts'))
    .filter((name) => name !== 'run' && name !== 'figure')
    .sort()
    .join(', ')}; all of them when none is named
  --seconds N  how long each figure is measured (1.5)
  --mb N       how much is installed and fetched (100)
  --json       one object, by name

  npm run bench -- heartbeats --seconds 5
`;

const { values, positionals } = readArguments(USAGE, {
  allowPositionals: true,
  options: {
    json: { type: 'boolean' },
    seconds: { type: 'string', default: '1.5' },
    mb: { type: 'string', default: '100' },
  },
});
const measureMs = Number(values.seconds) * 1000;
if (!(measureMs >= 100 && measureMs <= 60_000)) refuseArguments('--seconds: from 0.1 to 60');
const installMb = wholeNumber('--mb', values.mb, [1, 1_000]);

const findBenches = async (): Promise<Bench[]> => {
  const files = globSync('*.ts', { cwd: import.meta.dirname }).filter(
    (file) => file !== basename(import.meta.filename),
  );
  const modules: object[] = [];
  for (const file of files.sort()) modules.push(await import(join(import.meta.dirname, file)));
  return modules.filter(isBench).filter(({ name }) => positionals.length === 0 || positionals.includes(name));
};

const benches = await findBenches();
const unknown = positionals.find((wanted) => benches.every(({ name }) => name !== wanted));
if (unknown !== undefined) refuseArguments(`there is no bench "${unknown}"`);
const results: Record<string, Figure[]> = {};
for (const bench of benches) {
  const began = performance.now();
  process.stderr.write(`${bench.name} ...`);
  results[bench.name] = await bench.run({ measureMs, installMb });
  process.stderr.write(` ${Math.round((performance.now() - began) / 1000)} s\n`);
}
const rows = Object.entries(results).flatMap(([name, figures]) =>
  figures.map(({ what, value, unit, ratio }) => [
    name,
    what,
    (value?.toLocaleString('en') ?? '-').padStart(12),
    unit,
    ratio === null ? '' : ratio.toFixed(2),
  ]),
);
console.log(
  values.json === true
    ? JSON.stringify(results)
    : table(['BENCH', 'WHAT', '       VALUE', 'UNIT', 'OF THE FLOOR'], rows),
);

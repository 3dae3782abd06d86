/**
 * `npm run bench [-- name...] [-- --json]`: every bench in turn, a table for people or one JSON object for scripts. Each
 * is a module in this folder that exports its `name` and `run()`. Figures are of this machine at this moment; ratios to a floor hold better.
 */
import { globSync } from 'node:fs';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';

type Bench = { name: string; run(): Promise<object> };

const isBench = (module: object): module is Bench =>
  'name' in module && typeof module.name === 'string' && 'run' in module && typeof module.run === 'function';

const { values, positionals } = parseArgs({ allowPositionals: true, options: { json: { type: 'boolean' } } });

const findBenches = async (): Promise<Bench[]> => {
  const files = globSync('*.ts', { cwd: import.meta.dirname }).filter(
    (file) => file !== basename(import.meta.filename),
  );
  const modules: object[] = [];
  for (const file of files.sort()) modules.push(await import(join(import.meta.dirname, file)));
  return modules.filter(isBench).filter(({ name }) => positionals.length === 0 || positionals.includes(name));
};

/** One line a figure, nested ones below their heading. */
const linesOf = (result: object, indent: string): string[] =>
  Object.entries(result).flatMap(([key, value]: [string, unknown]) =>
    typeof value === 'object' && value !== null
      ? [`${indent}${key}`, ...linesOf(value, `${indent}  `)]
      : [`${indent}${key.padEnd(44 - indent.length)}${wordsOf(value).padStart(14)}`],
  );
const wordsOf = (value: unknown): string =>
  typeof value === 'number' ? value.toLocaleString('en', { maximumFractionDigits: 3 }) : String(value);

const results: Record<string, object> = {};
for (const bench of await findBenches()) {
  if (values.json !== true) console.log(`\n${bench.name}`);
  const result = await bench.run();
  results[bench.name] = result;
  if (values.json !== true) console.log(linesOf(result, '  ').join('\n'));
}
if (values.json === true) console.log(JSON.stringify(results));
if (Object.keys(results).length === 0) {
  console.error('there is no such bench');
  process.exitCode = 2;
}

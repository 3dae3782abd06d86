/**
 * Records the golden histories again: `npm run record:golden [name ...]`. To be run when rollouts are meant to decide
 * otherwise, and its difference read.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readArguments, refuseArguments } from '#test/arguments.ts';
import { play, SCENARIOS } from './histories.ts';

const GOLDEN = join(import.meta.dirname, '../golden');
const { positionals: wanted } = readArguments(
  `Usage: npm run record:golden -- [name...]\n\n  name  ${Object.keys(SCENARIOS).join(', ')}; all of them when none is named\n`,
  { allowPositionals: true },
);
const unknown = wanted.find((name) => !Object.hasOwn(SCENARIOS, name));
if (unknown !== undefined) refuseArguments(`there is no history "${unknown}"`);
await mkdir(GOLDEN, { recursive: true });
for (const [name, scenario] of Object.entries(SCENARIOS)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const { what, decisions } = await play(scenario);
  // One decision a line, so that a difference shows which.
  const lines = decisions.map((one) => JSON.stringify(one)).join(',\n');
  await writeFile(join(GOLDEN, `${name}.json`), `{"what":${JSON.stringify(what)},"decisions":[\n${lines}\n]}\n`);
  process.stdout.write(`${name}: ${decisions.length} decisions\n`);
}

/**
 * `npm run bench:delta [-- --pair node-red --tool bsdiff] [-- --again] [-- --table] [-- --json]`: what must be fetched
 * to get from one version to the next, on real pairs, by packs and by other tools, with time and memory. An hour and
 * gigabytes for all of it, so every row is kept once it was measured: what is there already is measured only `--again`;
 * `--table` measures nothing. Prints all that is known, as a Markdown table or as JSON; progress goes to stderr.
 */
import { execFileSync } from 'node:child_process';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { readArguments, refuseArguments } from '#test/arguments.ts';
import { PAIRS, type Pair } from './pairs.ts';
import { keepResult, type Result, readResults, tableOf } from './results.ts';
import { TOOLS } from './tools.ts';

const USAGE = `Usage: npm run bench:delta -- [options]

  --pair NAME  only this one, may be repeated: ${PAIRS.map(({ name }) => name).join(', ')}
  --tool NAME  only with this one, may be repeated: ${TOOLS.map(({ name }) => name).join(', ')}
  --again      also what was measured before
  --table      measures nothing, and prints what is known
  --json       as JSON instead of Markdown

  npm run bench:delta -- --pair node-red --tool bsdiff
`;

const { values } = readArguments(USAGE, {
  options: {
    pair: { type: 'string', multiple: true },
    tool: { type: 'string', multiple: true },
    again: { type: 'boolean' },
    table: { type: 'boolean' },
    json: { type: 'boolean' },
  },
});
/** All of them, or those that are named. */
const picked = <T extends { name: string }>(all: readonly T[], names: readonly string[] | undefined): T[] =>
  (names ?? all.map(({ name }) => name)).map((wanted) => {
    const found = all.find(({ name }) => name === wanted);
    return found ?? refuseArguments(`"${wanted}" is none of ${all.map(({ name }) => name).join(', ')}`);
  });

const isThere = (program: string): boolean => {
  try {
    execFileSync('sh', ['-c', `command -v ${program}`], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
};
const lacking = (tool: (typeof TOOLS)[number]): string | undefined => tool.needs.find((program) => !isThere(program));
const reasonOf = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split('\n')[0]!.replaceAll('|', '/');

const measure = async (pair: Pair, tool: (typeof TOOLS)[number]): Promise<Result> => {
  const work = await mkdtemp(join(tmpdir(), 'sluice-delta-'));
  const artifactBytes = (await stat(pair.fresh)).size;
  const noted = () => ({ at: new Date().toISOString(), load: loadavg()[0]!, artifactBytes });
  try {
    const way = await tool.run(pair, work);
    return { ...noted(), ...way };
  } catch (error) {
    return { ...noted(), problem: reasonOf(error) };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
};

const say = (text: string): void => void process.stderr.write(text);
const measureAll = async (): Promise<void> => {
  const [pairs, tools] = [picked(PAIRS, values.pair), picked(TOOLS, values.tool)];
  for (const { name, open } of pairs) {
    const known = (await readResults())[name] ?? {};
    const wanted = tools.filter((tool) => (values.again ?? known[tool.name] === undefined) && !lacking(tool));
    if (wanted.length === 0) continue;
    let pair: Pair;
    try {
      pair = await open();
    } catch (error) {
      console.error(`${name}: left out (${reasonOf(error)})`);
      continue;
    }
    for (const tool of wanted) {
      say(`${name}, ${tool.name} ...`);
      const result = await measure(pair, tool);
      await keepResult(name, tool.name, result);
      say('problem' in result ? ` ${result.problem}\n` : ` ${(result.bytes / 1e6).toFixed(2)} MB\n`);
    }
  }
};

if (values.table !== true) await measureAll();
const results = await readResults();
const missing = (name: string): string => {
  const program = lacking(TOOLS.find((tool) => tool.name === name)!);
  return program === undefined ? 'not measured' : `${program} is not installed`;
};
console.log(values.json === true ? JSON.stringify(results) : tableOf(results, missing));

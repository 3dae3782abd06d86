/**
 * What was measured so far, kept beside the pairs: a run goes on where the last one ended, and one row can be measured
 * again.
 */
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { readFileIfThere } from '#shared/durable.ts';
import { CACHE, PAIRS } from './pairs.ts';
import { Cost, TOOLS, Way } from './tools.ts';

const FILE = join(CACHE, 'results.json');

/** `load`: how many wanted the processor meanwhile, over a minute, this bench included. */
const Measured = z.object({ at: z.string(), load: z.number(), artifactBytes: z.number() });
const Result = z.union([Measured.extend(Way.shape), Measured.extend({ problem: z.string() })]);
export type Result = z.infer<typeof Result>;
/** By the pair's name, then the tool's. */
const Results = z.record(z.string(), z.record(z.string(), Result));
export type Results = z.infer<typeof Results>;

export const readResults = async (): Promise<Results> => {
  const kept = await readFileIfThere(FILE);
  return kept === undefined ? {} : Results.parse(JSON.parse(kept.toString()));
};

/** Read again, since a run for other rows may be under way beside this one. */
export const keepResult = async (pair: string, tool: string, result: Result): Promise<void> => {
  const results = await readResults();
  (results[pair] ??= {})[tool] = result;
  await mkdir(dirname(FILE), { recursive: true });
  await writeFile(`${FILE}.part`, `${JSON.stringify(results, null, 2)}\n`);
  await rename(`${FILE}.part`, FILE);
};

const megabytes = (bytes: number): string => (bytes / 1e6).toPrecision(bytes < 1e6 ? 2 : 3);
const cells = ({ seconds, rssMB }: Cost): string[] => [seconds?.toFixed(1) ?? '', rssMB?.toFixed(0) ?? ''];

/** In Markdown; `missing` says why there is no result. */
export const tableOf = (results: Results, missing: (tool: string) => string): string => {
  const row = (...all: string[]): string => `| ${all.join(' | ')} |`;
  const rows = [
    row('Pair', 'Way', 'fetched, MB', 'make, CPU s', 'make, MB', 'apply, CPU s', 'apply, MB'),
    row(...Array.from({ length: 7 }, () => '---')),
  ];
  for (const { name, what } of PAIRS) {
    const of = results[name] ?? {};
    const size = Object.values(of)[0]?.artifactBytes;
    const title = size === undefined ? what : `${what}, ${megabytes(size)} MB`;
    for (const tool of TOOLS) {
      const result = of[tool.name];
      const said = result === undefined ? missing(tool.name) : 'problem' in result ? result.problem : undefined;
      if (said !== undefined || result === undefined || 'problem' in result)
        rows.push(row(title, tool.what, said ?? '', '', '', '', ''));
      else rows.push(row(title, tool.what, megabytes(result.bytes), ...cells(result.make), ...cells(result.apply)));
    }
  }
  return rows.join('\n');
};

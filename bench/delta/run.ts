/**
 * `npm run bench:delta [-- node ext4 ...]`: what must be fetched to get from one version to the next, on real pairs, by packs and
 * by other tools; minutes, not seconds. Programs that are not installed are skipped with a word. Prints a Markdown table.
 */
import { execFileSync } from 'node:child_process';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { realPairs } from './pairs.ts';
import { type Cost, TOOLS } from './tools.ts';

const isThere = (program: string): boolean => {
  try {
    execFileSync('sh', ['-c', `command -v ${program}`], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
};
const megabytes = (bytes: number): string => (bytes / 1e6).toPrecision(bytes < 1e6 ? 2 : 3);
const secondsOf = (cost: Cost | null): string =>
  cost === null || cost.seconds === null ? '' : cost.seconds.toFixed(1);
const memoryOf = (cost: Cost | null): string => (cost === null || cost.rssMB === null ? '' : cost.rssMB.toFixed(0));
const row = (...cells: string[]): void => console.log(`| ${cells.join(' | ')} |`);

row('Pair', 'Way', 'fetched, MB', 'make, CPU s', 'make, MB', 'apply, CPU s', 'apply, MB');
row('---', '---', '---', '---', '---', '---', '---');
for (const pair of await realPairs(process.argv.slice(2))) {
  const title = `${pair.name}, ${megabytes((await stat(pair.fresh)).size)} MB`;
  for (const { needs, run } of TOOLS) {
    if (needs !== null && !isThere(needs)) {
      console.error(`${needs} is not installed: skipped`);
      continue;
    }
    const work = await mkdtemp(join(tmpdir(), 'sluice-delta-'));
    try {
      const { what, bytes, make, apply } = await run(pair, work);
      row(title, what, megabytes(bytes), secondsOf(make), memoryOf(make), secondsOf(apply), memoryOf(apply));
    } catch (error) {
      console.error(
        `${pair.name}, ${needs ?? 'pack'}: skipped (${error instanceof Error ? error.message : String(error)})`,
      );
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  }
}

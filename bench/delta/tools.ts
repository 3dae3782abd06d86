/** Other ways to the same bytes, each with what must be fetched, and the time and memory of making and applying. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import type { Pair } from './pairs.ts';

const execute = promisify(execFile);

/** Of the processor, which a busy machine changes little. `null`: not measured. */
export type Cost = { seconds: number | null; rssMB: number | null };
export type Way = { what: string; bytes: number; make: Cost | null; apply: Cost | null };

const TIME = '/usr/bin/time';
/** One program, with its time and its greatest resident memory where GNU time is there to tell. */
const timed = async (work: string, command: string, ...args: string[]): Promise<Cost & { stdout: string }> => {
  const note = join(work, 'time');
  const all = existsSync(TIME) ? [TIME, '-f', '%U %S %M', '-o', note, command, ...args] : [command, ...args];
  const { stdout } = await execute(all[0]!, all.slice(1), { maxBuffer: 1e8 });
  if (!existsSync(TIME)) return { seconds: null, rssMB: null, stdout };
  const [user = 0, system = 0, kilobytes = 0] = (await readFile(note, 'utf8'))
    .trim()
    .split(/\s+/)
    .slice(-3)
    .map(Number);
  return { seconds: user + system, rssMB: kilobytes / 1024, stdout };
};
const sizeOf = async (path: string): Promise<number> => (await stat(path)).size;

const Step = z.looseObject({
  bytes: z.number(),
  indexBytes: z.number().optional(),
  seconds: z.number(),
  rssMB: z.number(),
});
const step = async (...args: string[]) => {
  const { stdout } = await execute(process.execPath, [join(import.meta.dirname, 'step.ts'), ...args], {
    maxBuffer: 1e8,
  });
  return Step.parse(JSON.parse(stdout));
};

const same = async (work: string, made: string, fresh: string): Promise<void> => {
  await execute('cmp', [made, fresh]);
  await rm(made);
  await rm(join(work, 'time'), { force: true });
};

type Tool = (pair: Pair, work: string) => Promise<Way>;

const packAt =
  (level: number, from: 'old' | 'nothing'): Tool =>
  async ({ old, fresh }, work) => {
    const source = from === 'old' ? old : '-';
    const pack = join(work, 'pack');
    const made = await step('make', source, fresh, String(level), pack);
    const out = join(work, 'out');
    const applied = await step('apply', source, `${pack}.old-index`, `${pack}.index`, pack, out);
    await same(work, out, fresh);
    const what = from === 'old' ? `pack, level ${level}` : `pack from nothing, level ${level}`;
    return { what, bytes: made.bytes + (made.indexBytes ?? 0), make: made, apply: applied };
  };

const chunksAlone: Tool = async ({ old, fresh }) => {
  const made = await step('chunks', old, fresh);
  return { what: 'chunks one by one', bytes: made.bytes + (made.indexBytes ?? 0), make: null, apply: null };
};

const zstd: Tool = async ({ fresh }, work) => {
  const packed = join(work, 'full.zst');
  const make = await timed(work, 'zstd', '-q', '-19', '-T1', '-f', fresh, '-o', packed);
  const apply = await timed(work, 'zstd', '-q', '-d', '-f', packed, '-o', join(work, 'out'));
  await same(work, join(work, 'out'), fresh);
  return { what: 'all of it, zstd -19', bytes: await sizeOf(packed), make, apply };
};

const xdelta: Tool = async ({ old, fresh }, work) => {
  const patch = join(work, 'patch');
  const window = String(2 ** Math.ceil(Math.log2(await sizeOf(old))));
  const make = await timed(work, 'xdelta3', '-e', '-9', '-f', '-B', window, '-s', old, fresh, patch);
  const apply = await timed(work, 'xdelta3', '-d', '-f', '-B', window, '-s', old, patch, join(work, 'out'));
  await same(work, join(work, 'out'), fresh);
  return { what: 'xdelta3 -9', bytes: await sizeOf(patch), make, apply };
};

/** It takes up to 17 times the image. */
const BSDIFF_BYTES_MAX = 160 * 1024 ** 2;
const bsdiff: Tool = async ({ old, fresh }, work) => {
  if ((await sizeOf(old)) > BSDIFF_BYTES_MAX) throw new Error('would take gigabytes of memory');
  const patch = join(work, 'patch');
  const make = await timed(work, 'bsdiff', old, fresh, patch);
  const apply = await timed(work, 'bspatch', old, join(work, 'out'), patch);
  await same(work, join(work, 'out'), fresh);
  return { what: 'bsdiff', bytes: await sizeOf(patch), make, apply };
};

const bytesUnder = async (folder: string): Promise<number> => {
  let bytes = 0;
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) bytes += await sizeOf(join(entry.parentPath, entry.name));
  }
  return bytes;
};
const casync: Tool = async ({ old, fresh }, work) => {
  const store = join(work, 'store.castr');
  await mkdir(store);
  await timed(work, 'casync', 'make', `--store=${store}`, join(work, 'old.caibx'), old);
  const before = await bytesUnder(store);
  const index = join(work, 'new.caibx');
  const make = await timed(work, 'casync', 'make', `--store=${store}`, index, fresh);
  const bytes = (await bytesUnder(store)) - before + (await sizeOf(index));
  const apply = await timed(work, 'casync', 'extract', `--store=${store}`, `--seed=${old}`, index, join(work, 'out'));
  await same(work, join(work, 'out'), fresh);
  return { what: 'casync', bytes, make, apply };
};

const zchunk: Tool = async ({ old, fresh }, work) => {
  const [first, second] = [join(work, 'old.zck'), join(work, 'new.zck')];
  await timed(work, 'zck', '-o', first, old);
  const make = await timed(work, 'zck', '-o', second, fresh);
  const { stdout } = await execute('zck_delta_size', [first, second]);
  const bytes = Number(/Would download (\d+) of/.exec(stdout)?.[1]);
  if (!Number.isFinite(bytes)) throw new Error(`zck_delta_size says ${stdout}`);
  return { what: 'zchunk', bytes, make, apply: null };
};

export const TOOLS: readonly { needs: string | null; run: Tool }[] = [
  { needs: null, run: packAt(9, 'old') },
  { needs: null, run: packAt(19, 'old') },
  { needs: null, run: chunksAlone },
  { needs: 'xdelta3', run: xdelta },
  { needs: 'casync', run: casync },
  { needs: 'zck', run: zchunk },
  { needs: 'bsdiff', run: bsdiff },
  { needs: 'zstd', run: zstd },
  { needs: null, run: packAt(9, 'nothing') },
];

/** Other ways to the same bytes, each with what must be fetched, and the time and memory of making and applying. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import { freemem } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import type { Pair } from './pairs.ts';
import { serveRanges } from './ranges.ts';

const execute = promisify(execFile);

/** `seconds` of the processor, which a busy machine changes little, and by the clock. `null`: could not be measured. */
export const Cost = z.object({ seconds: z.number().nullable(), wallSeconds: z.number(), rssMB: z.number().nullable() });
export type Cost = z.infer<typeof Cost>;
export const Way = z.object({ bytes: z.number(), make: Cost, apply: Cost });
export type Way = z.infer<typeof Way>;

const TIME = '/usr/bin/time';
/** Of one program; whatever takes longer is no way to a release. */
const MINUTES_MAX = 60;
const TIMED_OUT = 124;

/** One program, with its time and its greatest resident memory where GNU time is there to tell. */
const timed = async (work: string, command: string, ...args: string[]): Promise<Cost> => {
  const note = join(work, 'time');
  const limited = ['timeout', `${MINUTES_MAX}m`, command, ...args];
  const all = existsSync(TIME) ? [TIME, '-f', '%U %S %M', '-o', note, ...limited] : limited;
  const since = performance.now();
  try {
    await execute(all[0]!, all.slice(1), { maxBuffer: 1e8, cwd: work });
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === TIMED_OUT)
      throw new Error(`not done within ${MINUTES_MAX} minutes`, { cause: error });
    throw error;
  }
  const wallSeconds = (performance.now() - since) / 1000;
  if (!existsSync(TIME)) return { seconds: null, wallSeconds, rssMB: null };
  const figures = (await readFile(note, 'utf8')).trim().split(/\s+/).slice(-3).map(Number);
  const [user = 0, system = 0, kilobytes = 0] = figures;
  return { seconds: user + system, wallSeconds, rssMB: kilobytes / 1024 };
};
/** One after the other. */
const together = (a: Cost, b: Cost): Cost => ({
  seconds: a.seconds === null || b.seconds === null ? null : a.seconds + b.seconds,
  wallSeconds: a.wallSeconds + b.wallSeconds,
  rssMB: a.rssMB === null || b.rssMB === null ? null : Math.max(a.rssMB, b.rssMB),
});
const sizeOf = async (path: string): Promise<number> => (await stat(path)).size;

const Step = z.object({ bytes: z.number(), indexBytes: z.number().default(0), ...Cost.shape });
const step = async (...args: string[]) => {
  const { stdout } = await execute(process.execPath, [join(import.meta.dirname, 'step.ts'), ...args], {
    maxBuffer: 1e8,
  });
  return Step.parse(JSON.parse(stdout));
};
/** What was made must be the new artifact. */
const same = async (made: string, fresh: string): Promise<void> => {
  await execute('cmp', [made, fresh]);
  await rm(made);
};

type Run = (pair: Pair, work: string) => Promise<Way>;

/** `made`: the step that makes a pack, and its arguments. */
const sluice = async (made: string[], { fresh }: Pair, source: string, work: string): Promise<Way> => {
  const [pack, out] = [join(work, 'pack'), join(work, 'out')];
  const { bytes, indexBytes, ...make } = await step(...made, pack);
  const apply = await step('apply', source, `${pack}.old-index`, `${pack}.index`, pack, out);
  await same(out, fresh);
  return Way.parse({ bytes: bytes + indexBytes, make, apply });
};
const packAt =
  (level: number): Run =>
  (pair, work) =>
    sluice(['make', pair.old, pair.fresh, String(level)], pair, pair.old, work);
const packFromNothing: Run = (pair, work) => sluice(['make', '-', pair.fresh, '9'], pair, '-', work);
/** Its making is that of `fresh`. */
const partOfNothing: Run = async ({ old, fresh }, work) => {
  const pack = join(work, 'pack');
  const { bytes: _, indexBytes: __, ...make } = await step('make', '-', fresh, '9', pack);
  const { bytes, indexBytes, ...apply } = await step('partial', old, fresh, pack);
  return Way.parse({ bytes: bytes + indexBytes, make, apply });
};
const chunksAlone: Run = (pair, work) => sluice(['chunks', pair.old, pair.fresh], pair, pair.old, work);

const zstd: Run = async ({ fresh }, work) => {
  const [packed, out] = [join(work, 'full.zst'), join(work, 'out')];
  const make = await timed(work, 'zstd', '-q', '-19', '-T1', '-f', fresh, '-o', packed);
  const apply = await timed(work, 'zstd', '-q', '-d', '-f', packed, '-o', out);
  await same(out, fresh);
  return { bytes: await sizeOf(packed), make, apply };
};

/** Its window is all of the old artifact. */
const xdelta: Run = async ({ old, fresh }, work) => {
  const [patch, out] = [join(work, 'patch'), join(work, 'out')];
  const window = String(2 ** Math.ceil(Math.log2(await sizeOf(old))));
  const make = await timed(work, 'xdelta3', '-e', '-9', '-f', '-B', window, '-s', old, fresh, patch);
  const apply = await timed(work, 'xdelta3', '-d', '-f', '-B', window, '-s', old, patch, out);
  await same(out, fresh);
  return { bytes: await sizeOf(patch), make, apply };
};

/** What it takes of the old artifact's size, in memory. */
const BSDIFF_TIMES = 9;
const bsdiff: Run = async ({ old, fresh }, work) => {
  const needed = BSDIFF_TIMES * (await sizeOf(old)) + (await sizeOf(fresh));
  if (needed > freemem()) throw new Error(`would take ${(needed / 1e9).toPrecision(2)} GB of memory`);
  const [patch, out] = [join(work, 'patch'), join(work, 'out')];
  const make = await timed(work, 'bsdiff', old, fresh, patch);
  const apply = await timed(work, 'bspatch', old, out, patch);
  await same(out, fresh);
  return { bytes: await sizeOf(patch), make, apply };
};

const bytesUnder = async (folder: string): Promise<number> => {
  let bytes = 0;
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) bytes += await sizeOf(join(entry.parentPath, entry.name));
  }
  return bytes;
};
const casync: Run = async ({ old, fresh }, work) => {
  const [store, out] = [join(work, 'store.castr'), join(work, 'out')];
  await mkdir(store);
  await timed(work, 'casync', 'make', `--store=${store}`, join(work, 'old.caibx'), old);
  const before = await bytesUnder(store);
  const index = join(work, 'new.caibx');
  const make = await timed(work, 'casync', 'make', `--store=${store}`, index, fresh);
  const bytes = (await bytesUnder(store)) - before + (await sizeOf(index));
  const apply = await timed(work, 'casync', 'extract', `--store=${store}`, `--seed=${old}`, index, out);
  await same(out, fresh);
  return { bytes, make, apply };
};

/**
 * Really downloaded: its own account leaves the header out. What it applies from is the old version as it was fetched,
 * compressed.
 */
const zchunk: Run = async ({ old, fresh }, work) => {
  const [first, folder] = [join(work, 'old.zck'), join(work, 'served')];
  await mkdir(folder);
  await timed(work, 'zck', '-o', first, old);
  const make = await timed(work, 'zck', '-o', join(folder, 'new.zck'), fresh);
  const served = await serveRanges(join(folder, 'new.zck'));
  try {
    const fetched = await timed(work, 'zckdl', '-q', '-s', first, `${served.url}/new.zck`);
    const unpacked = await timed(work, 'unzck', 'new.zck');
    await same(join(work, 'new'), fresh);
    return { bytes: served.bytesSent(), make, apply: together(fetched, unpacked) };
  } finally {
    served.close();
  }
};

/** In the order of the table. `needs`: programs. */
export const TOOLS: readonly { name: string; what: string; needs: readonly string[]; run: Run }[] = [
  { name: 'sluice-9', what: 'Sluice, pack at level 9', needs: [], run: packAt(9) },
  { name: 'sluice-19', what: 'Sluice, pack at level 19', needs: [], run: packAt(19) },
  { name: 'partial', what: 'Sluice, missing chunks, taken from the full pack', needs: [], run: partOfNothing },
  { name: 'chunks', what: 'Sluice, chunks one by one', needs: [], run: chunksAlone },
  { name: 'xdelta3', what: 'xdelta3 -9', needs: ['xdelta3'], run: xdelta },
  { name: 'bsdiff', what: 'bsdiff', needs: ['bsdiff', 'bspatch'], run: bsdiff },
  { name: 'casync', what: 'casync', needs: ['casync'], run: casync },
  { name: 'zchunk', what: 'zchunk', needs: ['zck', 'zckdl', 'unzck'], run: zchunk },
  { name: 'fresh', what: 'all of it: Sluice, pack from nothing', needs: [], run: packFromNothing },
  { name: 'zstd', what: 'all of it: zstd -19', needs: ['zstd'], run: zstd },
];

/** Which packs are worth making, in which order. Pure. */
import type { Sha256 } from '#shared/ids.ts';

/** An artifact with a chunk index. */
export type Chunked = { artifact: Sha256; index: Sha256; bytes: number };
/** A staged artifact, and what stands in its place in the releases that devices run, most devices first. */
export type PackTarget = Chunked & { olds: Chunked[] };
export type MadePack = { to: Sha256; from: Sha256 | null; level: number; bytes: number };
export type PackJob = { to: Chunked; from: Chunked | null; level: number };

/** Soon, for everyone; and small, for what the fleet really runs. */
export const LEVEL_FIRST = 9;
export const LEVEL_BEST = 19;
/** Old releases that a pack is made from, for each artifact. */
export const OLDS_MAX = 8;
/** Above it a pack is hardly a delta: the best level would compute for hours, and save little. */
const BEST_BYTES_MAX = 64 * 1024 ** 2;

/**
 * First one from nothing and one from each old release, at the first level, since devices wait for them; then those
 * between releases once more at the best. What is there at a level, or a better one, is not made again.
 * `bytesMax`: the room that packs have together.
 */
export const planPacks = (targets: readonly PackTarget[], made: readonly MadePack[], bytesMax: number): PackJob[] => {
  const known = new Map(made.map((pack) => [keyOf(pack.to, pack.from), pack]));
  const soon: PackJob[] = [];
  const later: PackJob[] = [];
  const planned = new Set<string>();
  let wantedBytes = 0;
  for (const { olds, ...to } of targets) {
    const froms = olds.filter(({ index }) => index !== to.index).slice(0, OLDS_MAX);
    for (const from of [null, ...froms]) {
      const key = keyOf(to.index, from?.index ?? null);
      if (planned.has(key)) continue;
      planned.add(key);
      const pack = known.get(key);
      wantedBytes += pack?.bytes ?? 0;
      if (pack === undefined) soon.push({ to, from, level: LEVEL_FIRST });
      else if (from !== null && pack.level < LEVEL_BEST && pack.bytes <= BEST_BYTES_MAX) {
        later.push({ to, from, level: LEVEL_BEST });
      }
    }
  }
  return wantedBytes >= FULL * bytesMax ? [] : [...soon, ...later];
};

/** When packs that are wanted fill so much of the room, no more are made: they would only drive each other out. */
const FULL = 0.9;

const keyOf = (to: Sha256, from: Sha256 | null): string => `${to}/${from ?? ''}`;

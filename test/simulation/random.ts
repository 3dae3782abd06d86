/**
 * Seeded randomness. Each use has a stream of its own, so that dropping one kind of fault leaves the others as they
 * were.
 */
export type Random = {
  /** From 0 to 1. */
  next(): number;
  chance(probability: number): boolean;
  /** An integer, both ends included. */
  between(from: number, to: number): number;
  pick<T>(all: readonly T[]): T;
};

const scramble = (text: string): number => {
  let hash = 0x811c_9dc5;
  for (let at = 0; at < text.length; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), 0x0100_0193);
  return hash >>> 0;
};

/** Mulberry32: small, and good enough to choose faults. */
export const randomOf = (seed: number, stream: string): Random => {
  let state = scramble(`${seed}/${stream}`);
  const next = (): number => {
    state = (state + 0x6d2b_79f5) >>> 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return ((word ^ (word >>> 14)) >>> 0) / 2 ** 32;
  };
  return {
    next,
    chance: (probability) => next() < probability,
    between: (from, to) => from + Math.floor(next() * (to - from + 1)),
    pick: (all) => all[Math.floor(next() * all.length)]!,
  };
};

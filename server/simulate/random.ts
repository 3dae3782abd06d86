/** Randomness that can be had again: the same seed, the same numbers, on every machine. */

/** Uniform numbers from 0 (included) to 1 (excluded). */
export type Random = () => number;

const WARM_UP_ROUNDS = 16;

/** sfc32 (small fast counter, passes PractRand), one stream for each run of a seed. */
export const randomOf = (seed: number, run: number): Random => {
  let [a, b, c, counter] = [seed | 0, run | 0, 0x9e37_79b9 | 0, 1];
  const next = (): number => {
    const sum = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum;
    c |= 0;
    return (sum >>> 0) / 2 ** 32;
  };
  for (let round = 0; round < WARM_UP_ROUNDS; round++) next();
  return next;
};

/** An exponential wait: often soon, sometimes very late. */
export const waitOf = (random: Random, mean: number): number => -mean * Math.log1p(-random());

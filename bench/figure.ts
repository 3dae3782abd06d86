/** What benches have in common: how long each measurement takes, and the form of what they find. */

export type BenchOptions = {
  /** Of each single measurement. Ratios settle within a second or two; figures of a noisy machine want more. */
  measureMs: number;
  /** How much is installed, in MB (10^6): what does not compress, and three times that of text. */
  installMb: number;
};

/** One line of the table. */
export type Figure = {
  what: string;
  /** Null: it could not be measured, and `what` says why. */
  value: number | null;
  unit: string;
  /**
   * To the floor measured in the same run: 1 is as good as it can be, 0.5 half as good. Null for what has no floor, or
   * is it.
   */
  ratio: number | null;
};

export const figure = (what: string, value: number, unit: string, ratio: number | null = null): Figure => ({
  what,
  value: rounded(value),
  unit,
  ratio: ratio === null ? null : Math.round(ratio * 100) / 100,
});
export const skipped = (what: string, why: string): Figure => ({
  what: `${what}: skipped, ${why}`,
  value: null,
  unit: '',
  ratio: null,
});

/** Three digits say all that a measurement knows. */
const rounded = (value: number): number => Number(value.toPrecision(3));

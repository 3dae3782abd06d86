/**
 * What an examination of a device found. `unfit`: the agent must not be trusted with it; `doubtful`: it works, and
 * someone should know.
 */
export type Finding = {
  what: string;
  state: 'good' | 'doubtful' | 'unfit';
  /** What was found, in a sentence. */
  found: string;
  /** What to do about it. */
  todo?: string;
};

export const good = (what: string, found: string): Finding => ({ what, state: 'good', found });
export const doubtful = (what: string, found: string, todo: string): Finding => ({
  what,
  state: 'doubtful',
  found,
  todo,
});
export const unfit = (what: string, found: string, todo: string): Finding => ({ what, state: 'unfit', found, todo });

export const sizeOf = (bytes: number): string => {
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let size = bytes;
  let unit = 0;
  for (; size >= 1_000 && unit < units.length - 1; unit += 1) size /= 1_000;
  return `${unit === 0 || size >= 100 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`;
};

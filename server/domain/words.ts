/** Figures and lengths of time for people: few digits, units, no full stop. */

/** Few digits for people: `0.0254` -> `2.5 %`. */
export const percentOf = (share: number): string => `${Number((100 * share).toPrecision(3))} %`;

/** `2.0448` -> `2.04`. */
export const short = (value: number): string => String(Number(value.toPrecision(3)));

/** `1 device`, `2 devices`. */
export const plural = (number: number, noun: string): string => `${number} ${noun}${number === 1 ? '' : 's'}`;

/** Waves are counted from 1 where people read. */
export const waveName = (wave: number): string => `wave ${wave + 1}`;

/** A length of time with at most two units: `45 s`, `3 min 20 s`, `2 h 5 min`, `4 d`. */
export const durationWords = (ms: number): string => {
  const seconds = Math.ceil(Math.max(0, ms) / 1000);
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'min'],
    [seconds % 60, 's'],
  ];
  const from = parts.findIndex(([amount]) => amount > 0);
  if (from === -1) return '0 s';
  return parts
    .slice(from, from + 2)
    .filter(([amount]) => amount > 0)
    .map(([amount, unit]) => `${amount} ${unit}`)
    .join(' ');
};

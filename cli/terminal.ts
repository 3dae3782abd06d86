/**
 * What people see: colours only on a terminal, aligned tables, times and sizes in words, progress that scripts never
 * meet.
 */
import { stripVTControlCharacters } from 'node:util';
import pico from 'picocolors';

/** Undefined, not false, where there is no terminal: and undefined would let picocolors decide, which paints for CI. */
const isTerminal = process.stdout.isTTY ? process.env['TERM'] !== 'dumb' : false;
const wantsColours = isTerminal && (process.env['NO_COLOR'] ?? '') === '';
export const paint = pico.createColors(wantsColours);
export const liveTerminal = (): boolean => isTerminal;

export const print = (text = ''): void => void process.stdout.write(`${text}\n`);
export const printError = (text: string): void => void process.stderr.write(`${text}\n`);
/**
 * For scripts: exactly one line, also for readers that take U+0085, U+2028 and U+2029 for its end, as Python's
 * `splitlines` does.
 */
export const printJson = (value: unknown): void => print(jsonLine(value));
export const jsonLine = (value: unknown): string =>
  JSON.stringify(value).replace(
    /[\u0085\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );

/** Text from devices and servers may hold anything; control characters would act on the terminal. */
export const harmless = (text: string): string =>
  stripVTControlCharacters(text).replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, '\u00b7');

export type Cell = string | number | { text: string; paint: (text: string) => string };

/** A table with aligned columns; numbers to the right. */
export const table = (head: string[], rows: Cell[][]): string => {
  const textOf = (cell: Cell): string => harmless(typeof cell === 'object' ? cell.text : String(cell));
  const widths = head.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => textOf(row[column] ?? '').length)),
  );
  const line = (cells: Cell[]): string =>
    cells
      .map((cell, column) => {
        const text = textOf(cell);
        const space = ' '.repeat(Math.max(0, widths[column]! - text.length));
        if (typeof cell === 'number') return space + text;
        return (typeof cell === 'object' ? cell.paint(text) : text) + space;
      })
      .join('  ')
      .trimEnd();
  return [paint.dim(line(head)), ...rows.map(line)].join('\n');
};

/** Named values, one a line. */
export const facts = (pairs: [name: string, value: Cell][]): string => {
  const width = Math.max(...pairs.map(([name]) => name.length));
  return pairs
    .map(([name, value]) => {
      const text = harmless(typeof value === 'object' ? value.text : String(value));
      return `${paint.dim(name.padEnd(width))}  ${typeof value === 'object' ? value.paint(text) : text}`;
    })
    .join('\n');
};

const two = (value: number): string => String(value).padStart(2, '0');
/** Local time, to the second. */
export const formatTime = (millis: number): string => {
  const at = new Date(millis);
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
};

export const formatDuration = (millis: number): string => {
  const seconds = Math.round(millis / 1000);
  if (seconds < 90) return `${seconds} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
};
export const formatAgo = (millis: number | null, now: number): string =>
  millis === null ? 'never' : `${formatDuration(Math.max(0, now - millis))} ago`;

export const formatBytes = (bytes: number): string => {
  if (bytes < 1000) return `${bytes} B`;
  const units = ['kB', 'MB', 'GB', 'TB'];
  const power = Math.min(units.length, Math.floor(Math.log10(bytes) / 3));
  return `${(bytes / 1000 ** power).toFixed(1)} ${units[power - 1]}`;
};

/** A bar on standard error while `work` goes on; nothing at all unless that is a terminal. */
export const withProgress = async <T>(
  label: string,
  work: (onProgress: (done: number, total: number) => void) => Promise<T>,
  amountWords: (amount: number) => string = formatBytes,
): Promise<T> => {
  if (!process.stderr.isTTY) return work(() => {});
  let last = '';
  const onProgress = (done: number, total: number): void => {
    const share = total === 0 ? 1 : done / total;
    const bar = '#'.repeat(Math.floor(share * 24)).padEnd(24, '.');
    const line = `${label} [${bar}] ${Math.floor(share * 100)} % of ${amountWords(total)}`;
    if (line !== last) process.stderr.write(`\r\u001b[2K${line}`);
    last = line;
  };
  try {
    return await work(onProgress);
  } finally {
    if (last !== '') process.stderr.write('\r\u001b[2K');
  }
};

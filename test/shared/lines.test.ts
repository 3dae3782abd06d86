import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { jsonLine } from '#cli/terminal.ts';
import { text } from '#shared/ids.ts';
import { linesOf } from '#shared/lines.ts';

async function* pieces(bytes: Uint8Array, lengths: number[]): AsyncGenerator<Uint8Array> {
  let start = 0;
  for (const length of lengths) yield bytes.subarray(start, (start += length));
  yield bytes.subarray(start);
}
const split = async (content: string, lengths: number[] = [], lineBytesMax = 1_000_000): Promise<string[]> => {
  const all: string[] = [];
  for await (const line of linesOf(pieces(Buffer.from(content), lengths), lineBytesMax)) all.push(line);
  return all;
};
/** All of Unicode, and more often what others take for the end of a line, or cannot write down. */
const anything = fc.string({
  unit: fc.oneof(
    fc.constantFrom('\r', '\u000b', '\f', '\u001c', '\u0085', '\u2028', '\u2029', '\0', '\ud800', '\udc00', '"', '\\'),
    fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }),
  ),
});

test('a line ends with LF alone, wherever the stream is cut', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        anything.map((line) => line.toWellFormed().replaceAll('\n', '')),
        { minLength: 1 },
      ),
      fc.array(fc.nat(9)),
      async (lines, lengths) => {
        expect(await split(lines.map((line) => `${line}\n`).join(''), lengths)).toEqual(lines);
      },
    ),
  );
});

test('a last line needs no LF, an empty line is one, and a byte order mark stays', async () => {
  expect(await split('a\n\nb')).toEqual(['a', '', 'b']);
  expect(await split('')).toEqual([]);
  expect(await split('\ufeffa\n')).toEqual(['\ufeffa']);
});

test('a line without an end is given up where it grows too long', async () => {
  expect(await split('short\nfar too long, and more\nnext\n', [8, 8], 8)).toEqual(['short', 'far too lo']);
});

test('a line of JSON for scripts is one line for every reader, and says the same', () => {
  fc.assert(
    fc.property(anything, (value) => {
      const line = jsonLine({ [value]: [value] });
      expect(line).not.toMatch(/[\n\r\v\f\u0085\u2028\u2029]/);
      expect(JSON.parse(line)).toEqual({ [value]: [value] });
    }),
  );
});

test('text that is accepted is the same after it was written as UTF-8', () => {
  fc.assert(
    fc.property(anything, (value) => {
      const parsed = text(1000).safeParse(value);
      const kept = parsed.data ?? '';
      expect(Buffer.from(kept).toString('utf8')).toBe(kept);
    }),
  );
  expect(text(10).parse('cut \ud83d')).toBe('cut \ufffd');
  expect(text(10).safeParse('a\0b').success).toBe(false);
  expect(text(10).safeParse('a\u0085b').success).toBe(false);
});

import { createHash } from 'node:crypto';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, openChunker } from '#shared/transfer/chunker.ts';
import { noise } from './bytes.ts';

const cut = (bytes: Uint8Array): Buffer[] => {
  const chunker = openChunker();
  return [...chunker.push(bytes), ...chunker.end()];
};
const lengths = (bytes: Uint8Array): number[] => cut(bytes).map((chunk) => chunk.length);
const digests = (bytes: Uint8Array): string[] =>
  cut(bytes).map((chunk) => createHash('sha256').update(chunk).digest('hex'));

// Devices in the field hold indexes made by this format: other figures here are another CHUNKING_FORMAT.
test('format 1 cuts as it always did', () => {
  expect(lengths(noise('golden', 1_000_000))).toEqual([
    75_919, 79_294, 72_761, 73_799, 107_511, 103_116, 80_053, 87_209, 70_098, 81_440, 78_843, 68_888, 21_069,
  ]);
  expect(lengths(Buffer.alloc(300_000))).toEqual([CHUNK_BYTES_MAX, CHUNK_BYTES_MAX, 300_000 - 2 * CHUNK_BYTES_MAX]);
  expect(lengths(Buffer.alloc(0))).toEqual([]);
  expect(lengths(Buffer.alloc(1))).toEqual([1]);
  expect(lengths(noise('golden', CHUNK_BYTES_MIN))).toEqual([CHUNK_BYTES_MIN]);
});

const source = noise('chunker', 1_500_000);
/** Pieces of noise and of one repeated byte: both what cuts usually and what never does. */
const Content = fc
  .array(fc.record({ from: fc.nat(source.length - 1), bytes: fc.nat(300_000), flat: fc.boolean() }), { maxLength: 6 })
  .map((pieces) =>
    Buffer.concat(
      pieces.map(({ from, bytes, flat }) =>
        flat ? Buffer.alloc(bytes, from % 256) : source.subarray(from, from + bytes),
      ),
    ),
  );

test('the chunks in a row are the bytes, and all of them are of an allowed size', () => {
  fc.assert(
    fc.property(Content, (bytes) => {
      const chunks = cut(bytes);
      expect(Buffer.concat(chunks).equals(bytes)).toBe(true);
      for (const [index, chunk] of chunks.entries()) {
        expect(chunk.length).toBeLessThanOrEqual(CHUNK_BYTES_MAX);
        expect(chunk.length).toBeGreaterThanOrEqual(index === chunks.length - 1 ? 1 : CHUNK_BYTES_MIN);
      }
    }),
    { numRuns: 50 },
  );
});

test('the boundaries are those that docs/transfer.md names, found byte by byte', () => {
  const gear = Array.from({ length: 256 }, (_, value) =>
    createHash('sha256').update(`gear${value}`).digest().readUInt32LE(0),
  );
  const endOf = (bytes: Buffer, start: number): number => {
    const left = bytes.length - start;
    if (left <= 16_384) return bytes.length;
    let hash = 0;
    for (let at = 16_384 - 32; at < Math.min(left, 114_688); at += 1) {
      hash = (hash * 2 + gear[bytes[start + at]!]!) % 2 ** 32;
      if (at < 16_384) continue;
      if (hash < 2 ** (at < 65_536 ? 14 : 18)) return start + at + 1;
    }
    return start + Math.min(left, 114_688);
  };
  fc.assert(
    fc.property(Content, (bytes) => {
      const expected: number[] = [];
      for (let start = 0; start < bytes.length; ) {
        const end = endOf(bytes, start);
        expected.push(end - start);
        start = end;
      }
      expect(lengths(bytes)).toEqual(expected);
    }),
    { numRuns: 30 },
  );
});

test('how the bytes arrive makes no difference', () => {
  fc.assert(
    fc.property(Content, fc.array(fc.nat(200_000), { maxLength: 20 }), (bytes, pieces) => {
      const chunker = openChunker();
      const chunks: Buffer[] = [];
      let at = 0;
      for (const piece of [...pieces, bytes.length]) {
        // Scribbled over afterwards: the chunks must be copies.
        const arrived = Buffer.from(bytes.subarray(at, at + piece));
        chunks.push(...chunker.push(arrived));
        arrived.fill(0xee);
        at += piece;
      }
      chunks.push(...chunker.end());
      expect(chunks.map((chunk) => chunk.length)).toEqual(lengths(bytes));
      expect(Buffer.concat(chunks).equals(bytes)).toBe(true);
    }),
    { numRuns: 50 },
  );
});

test('an insertion, removal or change leaves all chunks alone but those near it', () => {
  const before = digests(source);
  fc.assert(
    fc.property(fc.nat(source.length), fc.nat(100), fc.uint8Array({ maxLength: 100 }), (at, removed, inserted) => {
      const changed = Buffer.concat([source.subarray(0, at), inserted, source.subarray(at + removed)]);
      const known = new Set(before);
      const fresh = digests(changed).filter((digest) => !known.has(digest));
      // Boundaries find each other again after a few chunks; on noise this almost always takes one or two.
      expect(fresh.length).toBeLessThanOrEqual(6);
    }),
    { numRuns: 40 },
  );
});

test('what comes before a chunk has no influence on where it ends', () => {
  const [first, ...rest] = cut(source);
  expect(lengths(source.subarray(first!.length))).toEqual(rest.map((chunk) => chunk.length));
});

import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { type PackOffer, packPays } from '#agent/domain/pack-worth.ts';

/** 1,300 chunks of 76 KB, a fifth of it when compressed. */
const nothing: PackOffer = { bytes: 20_000_000, delta: false, chunks: 1_300, chunkBytes: 100_000_000 };

test('a first install takes the pack from nothing', () => {
  expect(packPays(nothing, nothing.chunkBytes)).toBe(true);
});

test('of a pack from nothing some dozens of chunks are worth its table, one or two are not', () => {
  expect(packPays(nothing, 76_000)).toBe(false);
  expect(packPays(nothing, 2 * 76_000)).toBe(false);
  expect(packPays(nothing, 50 * 76_000)).toBe(true);
});

test('a pack between releases is taken for whatever it shortens', () => {
  const delta: PackOffer = { bytes: 500_000, delta: true, chunks: 250, chunkBytes: 19_000_000 };
  expect(packPays(delta, delta.chunkBytes)).toBe(true);
  expect(packPays(delta, 76_000)).toBe(true);
  // What lacks is hardly more than the table.
  expect(packPays(delta, 3_000)).toBe(false);
});

test('what does not compress is not fetched as a pack, which is no smaller', () => {
  expect(packPays({ ...nothing, bytes: 100_100_000 }, nothing.chunkBytes)).toBe(false);
  expect(packPays({ ...nothing, bytes: 100_100_000 }, 76_000)).toBe(false);
});

test('the more lacks, the rather a pack is taken; one that is longer than what lacks, never', () => {
  const Offer = fc
    .record({
      chunks: fc.integer({ min: 1, max: 100_000 }),
      perChunk: fc.integer({ min: 1, max: 114_688 }),
      delta: fc.boolean(),
      share: fc.double({ min: 0.001, max: 1.2, noNaN: true }),
    })
    .map(({ chunks, perChunk, delta, share }): PackOffer => {
      const chunkBytes = chunks * perChunk;
      return { chunks, delta, chunkBytes, bytes: 80 + 16 * chunks + Math.round(chunkBytes * share) };
    });
  fc.assert(
    fc.property(
      Offer,
      fc.double({ min: 0, max: 1, noNaN: true }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (offer, a, b) => {
        const [less, more] = [Math.min(a, b) * offer.chunkBytes, Math.max(a, b) * offer.chunkBytes];
        expect(!packPays(offer, less) || packPays(offer, more)).toBe(true);
        expect(offer.bytes < offer.chunkBytes || !packPays(offer, offer.chunkBytes)).toBe(true);
      },
    ),
  );
});

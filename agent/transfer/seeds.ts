/**
 * Artifacts that this device holds already, as the bytes that were fetched once: what a newer one is mostly made of.
 */
import { hash } from 'node:crypto';
import type { ChunkRecord } from '#shared/transfer/chunk-index.ts';

export type Seed = {
  /** Digest of its chunk index. */
  index: string;
  bytes: number;
  records: readonly ChunkRecord[];
  /**
   * Throws the system's error, or RangeError for bytes that it does not have. Nothing of it is believed. What it gives
   * is valid until the next call.
   */
  read: (offset: number, bytes: number) => Promise<Buffer>;
  close: () => Promise<void>;
};

/** Finds chunks in them: by digest, and checked by it. */
export const openSeeds = (seeds: readonly Seed[]) => {
  const places = new Map<string, { seed: Seed; offset: number; bytes: number }>();
  for (const seed of seeds) {
    let offset = 0;
    for (const { sha256, bytes } of seed.records) {
      if (!places.has(sha256)) places.set(sha256, { seed, offset, bytes });
      offset += bytes;
    }
  }
  return {
    has: (sha256: string): boolean => places.has(sha256),
    /** Undefined: not there, or not any more. Then it is not looked for again. */
    chunk: async ({ sha256, bytes }: ChunkRecord): Promise<Buffer | undefined> => {
      const place = places.get(sha256);
      if (place === undefined || place.bytes !== bytes) return undefined;
      const found = await place.seed.read(place.offset, bytes).catch(() => undefined);
      if (found !== undefined && hash('sha256', found) === sha256) return found;
      places.delete(sha256);
      return undefined;
    },
  };
};

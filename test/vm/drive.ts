/**
 * A hard disk with a volatile write cache, as real ones have: what was written and not flushed may be gone after a
 * power cut, may survive in part, or in another order. A sector of 512 bytes is never torn.
 */
import type { Random } from '#test/simulation/random.ts';

export const SECTOR_BYTES = 512;

/**
 * What a power cut does to the writes that no flush has covered: `in-order` keeps the first so many and tears the next.
 */
export const FATES = ['lost', 'kept', 'in-order', 'per-write', 'per-sector'] as const;
export type Fate = (typeof FATES)[number];

export type Drive = {
  readonly bytes: number;
  /** What the machine sees: cache and platter together. */
  read(offset: number, length: number): Buffer;
  /** `offset` and length are of whole sectors. With `durable` (FUA) it is on the platter at once. */
  write(offset: number, data: Uint8Array, durable?: boolean): void;
  flush(): void;
  /**
   * The power is gone. Returns how many sectors were in the cache, and how many of those do not hold what was last
   * written.
   */
  cut(fate: Fate, random: Random): { unflushed: number; lost: number };
};

type Version = { write: number; content: Buffer };
/** A sector that the cache holds: what the platter holds, and everything written since, oldest first. */
type Cached = { platter: Buffer; versions: Version[] };

export const openDrive = (media: Buffer): Drive => {
  const cache = new Map<number, Cached>();
  let writes = 0;

  const check = (offset: number, length: number): void => {
    if (offset % SECTOR_BYTES !== 0 || length % SECTOR_BYTES !== 0) throw new Error('not whole sectors');
    if (offset < 0 || offset + length > media.length) throw new Error('beyond the end of the drive');
  };

  const cacheSector = (at: number, content: Buffer): void => {
    const cached = cache.get(at);
    if (cached !== undefined) cached.versions.push({ write: writes, content });
    else {
      const platter = Buffer.from(media.subarray(at, at + SECTOR_BYTES));
      cache.set(at, { platter, versions: [{ write: writes, content }] });
    }
  };

  const survivalOf = (fate: Fate, random: Random): ((write: number) => boolean) => {
    const isOften = random.pick([0.1, 0.5, 0.9]);
    switch (fate) {
      case 'lost':
        return () => false;
      case 'kept':
        return () => true;
      case 'in-order': {
        const oldest = Math.min(...[...cache.values()].map(({ versions }) => versions[0]!.write));
        const last = random.between(oldest, writes);
        return (write) => write < last || (write === last && random.chance(0.5));
      }
      case 'per-write': {
        const drawn = new Map<number, boolean>();
        return (write) => {
          const survives = drawn.get(write) ?? random.chance(isOften);
          drawn.set(write, survives);
          return survives;
        };
      }
      case 'per-sector':
        return () => random.chance(isOften);
      default:
        return fate satisfies never;
    }
  };

  return {
    bytes: media.length,
    read: (offset, length) => {
      check(offset, length);
      return media.subarray(offset, offset + length);
    },
    write: (offset, data, durable = false) => {
      check(offset, data.length);
      writes += 1;
      for (let done = 0; done < data.length; done += SECTOR_BYTES) {
        if (durable) cache.delete(offset + done);
        else cacheSector(offset + done, Buffer.from(data.subarray(done, done + SECTOR_BYTES)));
      }
      media.set(data, offset);
    },
    flush: () => cache.clear(),
    cut: (fate, random) => {
      const survives = survivalOf(fate, random);
      let lost = 0;
      for (const [at, { platter, versions }] of cache) {
        const survivor = versions.findLast(({ write }) => survives(write));
        if (survivor !== versions.at(-1)) lost += 1;
        media.set(survivor?.content ?? platter, at);
      }
      const unflushed = cache.size;
      cache.clear();
      return { unflushed, lost };
    },
  };
};

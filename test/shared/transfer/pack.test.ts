import { createHash } from 'node:crypto';
import { constants, zstdCompressSync } from 'node:zlib';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { chunksLacking, encodeIndex } from '#shared/transfer/chunk-index.ts';
import { CHUNK_BYTES_MAX } from '#shared/transfer/chunker.ts';
import { makePack } from '#shared/transfer/make-pack.ts';
import {
  canBeDictionary,
  DICTIONARY_BYTES_MAX,
  encodePackRecord,
  FRAME_BYTES_MAX,
  openFrame,
  PACK_HEADER_BYTES,
  PACK_KINDS,
  packHeadBytes,
  packRecordFits,
  parsePackHead,
  parsePackHeader,
  parsePackRecord,
} from '#shared/transfer/pack.ts';
import { noise, packOf, readerOf, recordsOf } from './bytes.ts';

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const pack = (old: Buffer | null, fresh: Buffer, level = 3): Buffer => packOf(old, fresh, level);
const headOf = (made: Buffer) => {
  const records = parsePackHeader(made.subarray(0, PACK_HEADER_BYTES))?.records ?? 0;
  return parsePackHead(made.subarray(0, packHeadBytes(records)), made.length);
};

/**
 * The plainest reader of a pack: what it says together with what the old artifact has. Undefined when it does not fit
 * or is damaged.
 */
const apply = (old: Buffer | null, records: { sha256: string; bytes: number }[], bytes: Buffer): Buffer | undefined => {
  const table = headOf(bytes)?.table;
  if (table === undefined) return undefined;
  const known = new Map<string, Buffer>();
  let at = 0;
  for (const record of old === null ? [] : recordsOf(old)) {
    known.set(record.sha256, old!.subarray(at, at + record.bytes));
    at += record.bytes;
  }
  let written = Buffer.alloc(0);
  for (const [number, record] of records.entries()) {
    let chunk = known.get(record.sha256);
    if (chunk === undefined) {
      const entry = table.shift();
      const place = { chunkOffset: written.length, chunkBytes: record.bytes, oldBytes: old?.length ?? null };
      if (entry?.chunk !== number || !packRecordFits(entry, place)) return undefined;
      const from = { 0: null, 1: old, 2: written }[entry.kind];
      const range = from?.subarray(entry.dictionaryOffset, entry.dictionaryOffset + entry.dictionaryBytes) ?? null;
      try {
        chunk = openFrame(bytes.subarray(entry.offset, entry.offset + entry.frameBytes), range, record.bytes);
      } catch {
        return undefined;
      }
      if (sha256(chunk) !== record.sha256) return undefined;
      known.set(record.sha256, chunk);
    }
    written = Buffer.concat([written, chunk]);
  }
  return table.length === 0 ? written : undefined;
};

const source = noise('pack', 600_000);
const Artifact = fc
  .array(fc.record({ from: fc.nat(source.length - 1), bytes: fc.nat(150_000), flat: fc.boolean() }), { maxLength: 5 })
  .map((pieces) =>
    Buffer.concat(
      pieces.map(({ from, bytes, flat }) =>
        flat ? Buffer.alloc(bytes, from % 256) : source.subarray(from, from + bytes),
      ),
    ),
  );

test('a pack from any artifact, or from nothing, gives exactly the new one', () => {
  fc.assert(
    fc.property(fc.option(Artifact), Artifact, (old, fresh) => {
      const made = pack(old, fresh);
      expect(apply(old, recordsOf(fresh), made)?.equals(fresh)).toBe(true);
      expect(parsePackHeader(made.subarray(0, PACK_HEADER_BYTES))).toEqual({
        to: sha256(encodeIndex(recordsOf(fresh))),
        from: old === null ? null : sha256(encodeIndex(recordsOf(old))),
        records: chunksLacking(recordsOf(fresh), old === null ? [] : recordsOf(old)).length,
      });
    }),
    { numRuns: 40 },
  );
});

test('a pack that is cut anywhere, or has any byte changed, never gives other bytes than the artifact', () => {
  const old = Buffer.concat([
    source.subarray(0, 200_000),
    Buffer.alloc(50_000, 'old '),
    source.subarray(200_000, 300_000),
  ]);
  const fresh = Buffer.concat([
    source.subarray(0, 200_000),
    Buffer.alloc(40_000, 'new '),
    source.subarray(200_000, 350_000),
  ]);
  const made = pack(old, fresh);
  const records = recordsOf(fresh);
  expect(apply(old, records, made)?.equals(fresh)).toBe(true);
  fc.assert(
    fc.property(fc.nat(made.length - 1), (bytes) => {
      expect(apply(old, records, made.subarray(0, bytes))).toBeUndefined();
    }),
    { numRuns: 60 },
  );
  fc.assert(
    fc.property(fc.nat(made.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const damaged = Buffer.from(made);
      damaged[at]! ^= flip;
      const result = apply(old, records, damaged);
      expect(result === undefined || result.equals(fresh)).toBe(true);
    }),
    { numRuns: 120 },
  );
});

test('each kind is used where it is the smallest', () => {
  const kindsOf = (old: Buffer | null, fresh: Buffer): Set<number> =>
    new Set(headOf(pack(old, fresh, 9))!.table.map(({ kind }) => kind));
  const some = source.subarray(0, 120_000);
  const patched = Buffer.from(some);
  for (let at = 1_000; at < patched.length; at += 10_000) patched[at]! ^= 1;
  expect(kindsOf(null, some)).toEqual(new Set([PACK_KINDS.plain]));
  expect(kindsOf(some, patched)).toEqual(new Set([PACK_KINDS.old]));
  expect(kindsOf(null, Buffer.concat([some, patched]))).toEqual(new Set([PACK_KINDS.plain, PACK_KINDS.new]));
});

test('a pack from an artifact that changed in a few places is small', () => {
  const old = noise('small delta', 2_000_000);
  const fresh = Buffer.from(old);
  for (let at = 50_000; at < fresh.length; at += 200_000) fresh[at]! ^= 1;
  expect(pack(old, fresh).length).toBeLessThan(10_000);
  expect(pack(old, old).length).toBe(PACK_HEADER_BYTES);
});

test('a range that begins as a zstd dictionary does is not used as one', () => {
  const looksLikeOne = Buffer.concat([Buffer.from('37a430ec', 'hex'), source.subarray(0, 90_000)]);
  expect(canBeDictionary(looksLikeOne)).toBe(false);
  expect(canBeDictionary(looksLikeOne.subarray(1))).toBe(true);
  const fresh = Buffer.from(looksLikeOne);
  fresh[40_000]! ^= 1;
  const made = pack(looksLikeOne, fresh);
  expect(apply(looksLikeOne, recordsOf(fresh), made)?.equals(fresh)).toBe(true);
  // Twice in one artifact, so that the second half would have the first as its dictionary.
  const doubled = Buffer.concat([looksLikeOne, fresh]);
  expect(apply(null, recordsOf(doubled), pack(null, doubled))?.equals(doubled)).toBe(true);
  expect(() => openFrame(zstdCompressSync(source.subarray(0, 100)), looksLikeOne, 100)).toThrow(RangeError);
});

test('damage in the artifact itself makes no pack', () => {
  const damaged = Buffer.from(source);
  damaged[300_000]! ^= 1;
  const described = { reader: readerOf(damaged), records: recordsOf(source) };
  expect(() => makePack({ old: null, new: described, level: 1 }, () => undefined)).toThrow(
    'is not what its index says',
  );
});

describe('frames', () => {
  test('a bomb is stopped at the size of its chunk', () => {
    const bomb = zstdCompressSync(Buffer.alloc(64 * 1024 ** 2));
    expect(bomb.length).toBeLessThan(FRAME_BYTES_MAX(20_000));
    expect(() => openFrame(bomb, null, 20_000)).toThrow();
    // Of several frames in a row only the first is a chunk's.
    const small = zstdCompressSync(Buffer.alloc(10_000));
    expect(() => openFrame(Buffer.concat([small, bomb]), null, 20_000)).toThrow(RangeError);
  });

  test('a window beyond what a device grants is refused', () => {
    const wide = zstdCompressSync(Buffer.concat([source, source]).subarray(0, CHUNK_BYTES_MAX), {
      params: { [constants.ZSTD_c_windowLog]: 24, [constants.ZSTD_c_contentSizeFlag]: 0 },
    });
    // Whether this frame really asks for more than 2^20 bytes depends on how zstd wrote it: say so by hand.
    const asking = Buffer.from(wide);
    expect(asking.readUInt32LE(0)).toBe(0xfd2fb528);
    asking[4] = 0; // no single segment, no content size: a window descriptor follows
    asking[5] = (24 - 10) << 3;
    expect(() => openFrame(asking, null, CHUNK_BYTES_MAX)).toThrow();
  });

  test('a frame of another length than its chunk, cut, or no frame at all', () => {
    const chunk = source.subarray(0, 30_000);
    const frame = zstdCompressSync(chunk);
    expect(openFrame(frame, null, 30_000).equals(chunk)).toBe(true);
    expect(() => openFrame(frame, null, 29_999)).toThrow();
    expect(() => openFrame(frame, null, 30_001)).toThrow();
    expect(() => openFrame(frame.subarray(0, -1), null, 30_000)).toThrow();
    expect(() => openFrame(Buffer.alloc(0), null, 30_000)).toThrow();
    expect(() => openFrame(Buffer.alloc(FRAME_BYTES_MAX(1) + 1), null, 1)).toThrow(RangeError);
    for (const bytes of [0, -1, CHUNK_BYTES_MAX + 1]) expect(() => openFrame(frame, null, bytes)).toThrow(RangeError);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        expect(() => openFrame(Buffer.from(bytes), null, 1_000)).toThrow();
      }),
    );
  });

  test('what does not compress still has a frame within the limit', () => {
    for (const bytes of [1, 2, 100, 16_384, CHUNK_BYTES_MAX]) {
      const frame = zstdCompressSync(source.subarray(0, bytes), { params: { [constants.ZSTD_c_compressionLevel]: 1 } });
      expect(frame.length).toBeLessThanOrEqual(FRAME_BYTES_MAX(bytes));
    }
  });
});

describe('records', () => {
  const Record = fc.record({
    kind: fc.constantFrom(1 as const, 2 as const),
    chunk: fc.nat(2 ** 24 - 1),
    dictionaryOffset: fc.nat(2 ** 40 - 1),
    dictionaryBytes: fc.integer({ min: 1, max: DICTIONARY_BYTES_MAX }),
    frameBytes: fc.integer({ min: 1, max: FRAME_BYTES_MAX(CHUNK_BYTES_MAX) }),
  });
  test('what was encoded is parsed again, and whatever is accepted was encoded like that', () => {
    fc.assert(
      fc.property(Record, (record) => {
        expect(parsePackRecord(encodePackRecord(record))).toEqual(record);
      }),
    );
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 16, maxLength: 16 }), (bytes) => {
        const parsed = parsePackRecord(Buffer.from(bytes));
        expect(parsed === undefined || encodePackRecord(parsed).equals(Buffer.from(bytes))).toBe(true);
      }),
      { numRuns: 2_000 },
    );
  });

  test('kinds that do not exist, and lengths that nothing has, are refused', () => {
    const good = { kind: 1 as const, chunk: 3, dictionaryOffset: 0, dictionaryBytes: 5, frameBytes: 9 };
    const changed = (change: object): boolean =>
      parsePackRecord(encodePackRecord({ ...good, ...change })) !== undefined;
    expect(changed({})).toBe(true);
    expect(changed({ kind: 3 })).toBe(false);
    expect(changed({ kind: 0 })).toBe(false);
    expect(changed({ dictionaryBytes: 0 })).toBe(false);
    expect(changed({ dictionaryBytes: DICTIONARY_BYTES_MAX + 1 })).toBe(false);
    expect(changed({ frameBytes: 0 })).toBe(false);
    expect(changed({ frameBytes: FRAME_BYTES_MAX(CHUNK_BYTES_MAX) + 1 })).toBe(false);
  });

  test('a dictionary lies within the old artifact, or before the chunk in the new one', () => {
    const record = { kind: 1 as const, chunk: 3, dictionaryOffset: 100, dictionaryBytes: 50, frameBytes: 9 };
    const place = { chunkOffset: 150, chunkBytes: 1_000, oldBytes: 150 };
    expect(packRecordFits(record, place)).toBe(true);
    expect(packRecordFits(record, { ...place, oldBytes: 149 })).toBe(false);
    expect(packRecordFits(record, { ...place, oldBytes: null })).toBe(false);
    expect(packRecordFits({ ...record, kind: 2 }, { ...place, oldBytes: null })).toBe(true);
    expect(packRecordFits({ ...record, kind: 2 }, { ...place, chunkOffset: 149 })).toBe(false);
    expect(packRecordFits({ ...record, frameBytes: 2_000 }, place)).toBe(false);
  });
});

test('a table whose chunks do not grow, or whose frames do not end with the pack, is none', () => {
  const made = pack(null, source);
  const { table } = headOf(made)!;
  expect(table.length).toBeGreaterThan(2);
  const head = made.subarray(0, packHeadBytes(table.length));
  expect(parsePackHead(head, made.length)).toBeDefined();
  expect(parsePackHead(head, made.length + 1)).toBeUndefined();
  expect(parsePackHead(head.subarray(0, -1), made.length)).toBeUndefined();
  const swapped = Buffer.from(head);
  swapped.writeUIntLE(table[1]!.chunk, PACK_HEADER_BYTES + 1, 3);
  expect(parsePackHead(swapped, made.length)).toBeUndefined();
});

// Frames are zstd's, whose compressor may change; that what was packed once is read forever is what counts.
test('a pack made long ago is still read', () => {
  const old = Buffer.from('A gate that lets water through a little at a time. '.repeat(30));
  const fresh = Buffer.from(`${'A gate that lets water through a little at a time. '.repeat(29)}And shuts.`);
  const made = Buffer.from(
    'U0xVSUNFUEsBAAAAAQAAACafTYgStckqh6VpDpidQ51HKGTHjgD6g8SU6BHD4DZwtyuIaVSIYHwBs7wcNHwrHwvobmTuoUnSQGpnZwbPP/EAAAAAAAAAAAAAAABPAAAAKLUv/WDRBC0CAMQDQSBnYXRlIHRoYXQgbGV0cyB3YXRlciB0aHJvdWdoIGEgbGl0dGxlIGF0IGEgdGltZS4gbmQgc2h1dHMuAQAjmf0VFA==',
    'base64',
  );
  expect(apply(old, recordsOf(fresh), made)?.toString()).toBe(fresh.toString());
});

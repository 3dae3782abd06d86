import { createHash } from 'node:crypto';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { INDEX_BYTES_MAX } from '#shared/manifest.ts';
import { encodeIndex, parseIndex } from '#shared/transfer/chunk-index.ts';
import { noise, recordsOf } from './bytes.ts';

const artifact = noise('index', 700_000);
const records = recordsOf(artifact);
const index = encodeIndex(records);

test('format 1 of an index is pinned', () => {
  expect(index.subarray(0, 16).toString('hex')).toBe('534c554943454958010000000a000000');
  expect(createHash('sha256').update(index).digest('hex')).toBe(
    'fa2624f3853951d229f5840cf41516010f22e7fc6a90928db8db9432cead8aaf',
  );
});

test('what was encoded is parsed again', () => {
  expect(parseIndex(index, { artifactBytes: artifact.length })).toEqual({ ok: true, records });
  expect(parseIndex(encodeIndex([]), { artifactBytes: 0 })).toEqual({ ok: true, records: [] });
  fc.assert(
    fc.property(fc.nat(200_000), (bytes) => {
      const some = recordsOf(artifact.subarray(0, bytes));
      expect(parseIndex(encodeIndex(some), { artifactBytes: bytes })).toEqual({ ok: true, records: some });
    }),
    { numRuns: 30 },
  );
});

test('an index of another artifact size, cut short, or with something behind it is refused', () => {
  for (const artifactBytes of [0, artifact.length - 1, artifact.length + 1, 4 * 1024 ** 3]) {
    expect(parseIndex(index, { artifactBytes }).ok).toBe(false);
  }
  fc.assert(
    fc.property(fc.nat(index.length - 1), (bytes) => {
      expect(parseIndex(index.subarray(0, bytes), { artifactBytes: artifact.length }).ok).toBe(false);
    }),
  );
  expect(parseIndex(Buffer.concat([index, Buffer.alloc(35)]), { artifactBytes: artifact.length }).ok).toBe(false);
});

test('hostile bytes are refused or are exactly an index: what is accepted encodes to the same bytes', () => {
  fc.assert(
    fc.property(fc.nat(index.length - 1), fc.integer({ min: 0, max: 255 }), (at, value) => {
      const changed = Buffer.from(index);
      changed[at] = value;
      const parsed = parseIndex(changed, { artifactBytes: artifact.length });
      expect(!parsed.ok || encodeIndex(parsed.records).equals(changed)).toBe(true);
    }),
    { numRuns: 500 },
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      expect(parseIndex(Buffer.from(bytes), { artifactBytes: artifact.length }).ok).toBe(false);
    }),
  );
});

test('chunks smaller than any but the last, larger than any, or empty are refused, and so are absurd counts', () => {
  const sha256 = records[0]!.sha256;
  const refused = (...bytes: number[]): void => {
    const made = encodeIndex(bytes.map((length) => ({ sha256, bytes: length })));
    expect(parseIndex(made, { artifactBytes: bytes.reduce((sum, length) => sum + length, 0) }).ok).toBe(false);
  };
  refused(16_383, 20_000);
  refused(114_689);
  refused(20_000, 0);
  refused(0);
  const many = Buffer.from(index);
  many.writeUInt32LE(0xffffffff, 12);
  expect(parseIndex(many, { artifactBytes: artifact.length }).ok).toBe(false);
});

test('the index of the largest artifact, in chunks of the least size, is within what a manifest may name', () => {
  const artifactBytes = 4 * 1024 ** 3;
  const most = encodeIndex(
    Array.from({ length: artifactBytes / 16_384 }, () => ({ sha256: records[0]!.sha256, bytes: 16_384 })),
  );
  expect(most.length).toBeLessThanOrEqual(INDEX_BYTES_MAX);
  expect(parseIndex(most, { artifactBytes }).ok).toBe(true);
});

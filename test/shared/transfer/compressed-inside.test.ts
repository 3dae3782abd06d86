import { gzipSync, zstdCompressSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { compressedInside } from '#shared/transfer/compressed-inside.ts';

const squashfs = (flags: number): Buffer => {
  const head = Buffer.alloc(96);
  head.write('hsqs', 'latin1');
  head.writeUInt16LE(flags, 24);
  return head;
};

test('what is compressed inside is recognised by how it begins', () => {
  const plain = Buffer.from('a plain text of some length, nothing compressed here');
  expect(compressedInside(gzipSync(plain))).toBe('gzip');
  expect(compressedInside(zstdCompressSync(plain))).toBe('zstd');
  expect(compressedInside(Buffer.from('fd377a585a00000004e6d6b446', 'hex'))).toBe('xz');
  expect(compressedInside(squashfs(0x00c0))).toBe('squashfs');
  expect(compressedInside(squashfs(0x00c2)), 'its data is stored as it is').toBeUndefined();
  for (const head of [plain, Buffer.alloc(0), Buffer.alloc(2000), Buffer.from('7f454c46', 'hex')]) {
    expect(compressedInside(head)).toBeUndefined();
  }
});

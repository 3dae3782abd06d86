/**
 * Bytes that are compressed already: one changed byte inside changes all behind it, so a delta to the next version is
 * several times larger.
 */

/** By how the bytes begin. */
const SIGNATURES: readonly (readonly [name: string, hex: string])[] = [
  ['gzip', '1f8b08'],
  ['zstd', '28b52ffd'],
  ['xz', 'fd377a585a00'],
  ['bzip2', '425a68'],
  ['lz4', '04224d18'],
  ['zip', '504b0304'],
  ['squashfs', '68737173'],
];
/** Bit 1 of the flags in a squashfs superblock: the data blocks are stored as they are. */
const SQUASHFS_FLAGS_AT = 24;
const SQUASHFS_PLAIN_DATA = 2;

/** How the artifact that begins so (at least 32 bytes) is compressed inside; undefined when that is not to be seen. */
export const compressedInside = (head: Uint8Array): string | undefined => {
  const hex = Buffer.from(head.subarray(0, 8)).toString('hex');
  const found = SIGNATURES.find(([, signature]) => hex.startsWith(signature))?.[0];
  if (found === 'squashfs' && ((head[SQUASHFS_FLAGS_AT] ?? 0) & SQUASHFS_PLAIN_DATA) !== 0) return undefined;
  return found;
};

/** What the maker or publisher of such an artifact is told. */
export const compressedWarning = (artifact: string, how: string): string =>
  `${artifact} is compressed inside (${how}): updates to its next version will fetch several times as much as they need. ` +
  'Leave it uncompressed, since transfers compress by themselves.';

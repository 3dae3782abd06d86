/** Bodies that are compressed on their way: an upload's digest, size and limits are those of the bytes themselves. */
import type { Readable } from 'node:stream';
import { constants, createZstdDecompress } from 'node:zlib';

/** 8 MiB, what every zstd level below "ultra" stays within: the memory that one upload may ask for. */
const WINDOW_LOG_MAX = 23;

/** Answered with the words in errors.ts. */
export class UnknownEncoding extends Error {
  readonly code = 'SLUICE_UNKNOWN_ENCODING';
  readonly statusCode = 415;
}

/**
 * The body as it was before the sender compressed it; undefined for an encoding that this server does not know. It is
 * read as fast as it is consumed, so nothing grows, and its reader stops at its own limit. Damage is an error with
 * `statusCode` 400.
 */
export const decodeBody = (payload: Readable, encoding: string | undefined): Readable | undefined => {
  if (encoding === undefined || encoding === 'identity') return payload;
  if (encoding.toLowerCase() !== 'zstd') return undefined;
  const decoder = createZstdDecompress({ params: { [constants.ZSTD_d_windowLogMax]: WINDOW_LOG_MAX } });
  decoder.once('error', (error) => Object.assign(error, { statusCode: 400 }));
  // Not `pipeline`: that would cut the connection before the sender is told what was wrong.
  payload.once('error', (error) => decoder.destroy(error));
  return payload.pipe(decoder);
};

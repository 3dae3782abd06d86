/** Whether what lacks of an artifact is cheaper out of a pack or chunk by chunk. Pure. */
import { packHeadBytes } from '#shared/transfer/pack.ts';

export type PackOffer = {
  bytes: number;
  /** It needs the bytes of an artifact that is here; else it leads from nothing. */
  delta: boolean;
  /** How many chunks it holds, and their bytes when they are unpacked. */
  chunks: number;
  chunkBytes: number;
};

/**
 * A chunk by itself is compressed faster, and with nothing before it to refer to: about so many times a pack's frame.
 */
const ALONE = 1.25;

/**
 * Only those frames of a pack are fetched that lack, after its table. `lackingBytes`: of the chunks that lack,
 * unpacked. What a delta makes of a chunk says nothing about what it is by itself: that then counts with all of its
 * bytes.
 */
export const packPays = (pack: PackOffer, lackingBytes: number): boolean => {
  const head = packHeadBytes(pack.chunks);
  const frames = (lackingBytes / Math.max(1, pack.chunkBytes)) * Math.max(0, pack.bytes - head);
  return head + frames < (pack.delta ? lackingBytes : Math.min(lackingBytes, frames * ALONE));
};

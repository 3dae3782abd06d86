/**
 * How much of the application's output may be written: flash wears by it. What is above that is left out, and counted.
 */
import { fullBucket, type Rate, type TokenBucket, take } from '#shared/token-bucket.ts';

export type OutputLimit = {
  /** 0 is no limit. */
  bytesPerSecond: number;
  /** So much at once before the limit counts. */
  burstBytes: number;
};

export type OutputGate = { bucket: TokenBucket; open: boolean; leftOut: number };

/**
 * Once shut it stays so until this part of the burst is there again: a note for each line would be more than the lines.
 */
const REOPEN_PART = 16;

const rateOf = ({ bytesPerSecond, burstBytes }: OutputLimit): Rate => ({
  burst: burstBytes,
  perSecond: bytesPerSecond,
});

export const openGate = (limit: OutputLimit, now: number): OutputGate => ({
  bucket: fullBucket(rateOf(limit), now),
  open: true,
  leftOut: 0,
});

/**
 * Whether these bytes are written; if not, they are counted in `leftOut`, which is the caller's to tell and to clear.
 */
export const admit = (gate: OutputGate, limit: OutputLimit, bytes: number, now: number): boolean => {
  if (limit.bytesPerSecond === 0) return true;
  const left = take(gate.bucket, rateOf(limit), now, 0);
  gate.open = gate.open ? left > 0 : left >= limit.burstBytes / REOPEN_PART;
  if (!gate.open) {
    gate.leftOut += bytes;
    return false;
  }
  take(gate.bucket, rateOf(limit), now, bytes);
  return true;
};

/** How long a gate that has just shut stays so, at least. */
export const shutMs = ({ bytesPerSecond, burstBytes }: OutputLimit): number =>
  Math.ceil((burstBytes / REOPEN_PART / bytesPerSecond) * 1_000);

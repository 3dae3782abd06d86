/**
 * Finds which range of an artifact resembles a chunk most: places whose gear hash has some zero bits are remembered
 * with the 16 KiB bucket they are in, and the places in a chunk vote for buckets. Memory is bounded whatever the
 * artifact's size, since larger ones are sampled more thinly. What it finds is only a guess: a bad one costs bytes,
 * never correctness.
 */
import { GEAR, GEAR_WINDOW } from './chunker.ts';
import { DICTIONARY_BYTES_MAX } from './pack.ts';

const BUCKET_LOG = 14;
const BUCKETS = DICTIONARY_BYTES_MAX >>> BUCKET_LOG;
/** One place in 128 bytes, up to 256 MiB; half as many for each doubling beyond. */
const SAMPLE_BITS_MIN = 7;
const PLACES_MAX = 1 << 21;
const PROBES_MAX = 16;
const EMPTY = -1;

export type Anchors = {
  /** Takes the next bytes of the artifact. */
  push(bytes: Uint8Array): void;
  /** The range, at most `DICTIONARY_BYTES_MAX` long and within the artifact, that most places of the chunk vote for. */
  find(chunk: Uint8Array): { offset: number; bytes: number } | undefined;
};

export const openAnchors = (artifactBytes: number): Anchors => {
  let bits = SAMPLE_BITS_MIN;
  while (artifactBytes / 2 ** bits > PLACES_MAX) bits += 1;
  const sizeLog = Math.max(8, Math.ceil(Math.log2(Math.max(1, artifactBytes / 2 ** bits) * 2)));
  const hashes = new Int32Array(1 << sizeLog);
  const buckets = new Int32Array(1 << sizeLog).fill(EMPTY);
  const mask = (1 << sizeLog) - 1;
  const sampleShift = 32 - bits;
  const slotShift = 32 - sizeLog;
  let hash = 0;
  let position = 0;

  /** Where the hash is, or the empty place where it would be; `EMPTY` when the table is too full around there. */
  const slotOf = (wanted: number): number => {
    let slot = Math.imul(wanted, 0x9e3779b1) >>> slotShift;
    for (let probes = 0; probes < PROBES_MAX; probes += 1) {
      if (buckets[slot] === EMPTY || hashes[slot] === wanted) return slot;
      slot = (slot + 1) & mask;
    }
    return EMPTY;
  };
  const remember = (at: number): void => {
    const slot = slotOf(hash);
    if (slot === EMPTY || buckets[slot] !== EMPTY) return;
    hashes[slot] = hash;
    // Up to 2^18 buckets: 4 GiB.
    buckets[slot] = Math.floor(at / 2 ** BUCKET_LOG);
  };

  const push = (bytes: Uint8Array): void => {
    for (let at = 0; at < bytes.length; at += 1) {
      hash = ((hash << 1) + GEAR[bytes[at]!]!) | 0;
      if (hash >>> sampleShift === 0 && position + at >= GEAR_WINDOW - 1) remember(position + at);
    }
    position += bytes.length;
  };

  const votesOf = (chunk: Uint8Array): Map<number, number> => {
    const votes = new Map<number, number>();
    let rolling = 0;
    for (let at = 0; at < chunk.length; at += 1) {
      rolling = ((rolling << 1) + GEAR[chunk[at]!]!) | 0;
      if (rolling >>> sampleShift !== 0 || at < GEAR_WINDOW - 1) continue;
      const slot = slotOf(rolling);
      const bucket = slot === EMPTY ? EMPTY : buckets[slot]!;
      if (bucket !== EMPTY) votes.set(bucket, (votes.get(bucket) ?? 0) + 1);
    }
    return votes;
  };

  const find: Anchors['find'] = (chunk) => {
    const best = bestWindow(votesOf(chunk));
    if (best === undefined) return undefined;
    // The votes in the middle: what resembles the chunk rarely ends exactly at a bucket.
    const padding = Math.max(0, BUCKETS - (best.last - best.first + 1)) >> 1;
    const offset = Math.max(0, best.first - padding) * 2 ** BUCKET_LOG;
    return { offset, bytes: Math.min(DICTIONARY_BYTES_MAX, position - offset) };
  };
  return { push, find };
};

/** The buckets, at most as many in a row as a dictionary spans, that have the most votes together. */
const bestWindow = (votes: Map<number, number>): { first: number; last: number } | undefined => {
  const voted = [...votes.keys()].sort((a, b) => a - b);
  let best: { first: number; last: number } | undefined;
  let bestSum = 0;
  let sum = 0;
  let left = 0;
  for (const last of voted) {
    sum += votes.get(last) ?? 0;
    while (last - voted[left]! >= BUCKETS) {
      sum -= votes.get(voted[left]!) ?? 0;
      left += 1;
    }
    if (sum > bestSum) {
      bestSum = sum;
      best = { first: voted[left]!, last };
    }
  }
  return best;
};

/**
 * Merkle trees after RFC 6962, section 2.1: the audit log, and the director's batches. Leaves and nodes are hashed with
 * different prefixes, so that a node can never pass for a leaf. The hashes of the tree's leaves are `hashes`
 * everywhere.
 */
import { createHash } from 'node:crypto';
import { Sha256 } from '../ids.ts';

const LEAF = Buffer.of(0);
const NODE = Buffer.of(1);

/** What stands for one entry in the tree. A text is hashed as UTF-8. */
export const leafHash = (bytes: Uint8Array | string): Buffer =>
  createHash('sha256').update(LEAF).update(bytes).digest();

const nodeHash = (left: Uint8Array, right: Uint8Array): Buffer =>
  createHash('sha256').update(NODE).update(left).update(right).digest();

/** The tree as rows from the leaves up: a node without a sibling moves up as it is, which gives RFC 6962's shape. */
const rowsOf = (hashes: Buffer[]): Buffer[][] => {
  const rows = [hashes];
  for (let row = hashes; row.length > 1; ) {
    const above: Buffer[] = [];
    for (let i = 0; i < row.length; i += 2) {
      const right = row[i + 1];
      above.push(right === undefined ? row[i]! : nodeHash(row[i]!, right));
    }
    rows.push(above);
    row = above;
  }
  return rows;
};

/** The root (section 2.1); of no leaves: the hash of nothing. */
export const rootOfLeaves = (hashes: Buffer[]): Buffer =>
  hashes.length === 0 ? createHash('sha256').digest() : rowsOf(hashes).at(-1)![0]!;

const climb = (index: number, rows: Buffer[][]): Buffer[] => {
  const proof: Buffer[] = [];
  let position = index;
  for (const row of rows) {
    const sibling = row[position ^ 1];
    if (sibling !== undefined) proof.push(sibling);
    position >>= 1;
  }
  return proof;
};

/** The audit path of one leaf (section 2.1.1), from the leaf up. Throws a `RangeError` when there is no such leaf. */
export const inclusionProof = (index: number, hashes: Buffer[]): Buffer[] => {
  if (!Number.isInteger(index) || index < 0 || index >= hashes.length) throw new RangeError(`no leaf ${index}`);
  return climb(index, rowsOf(hashes));
};

/** The root and the audit paths of all leaves in one go: the tree is hashed once. */
export const allInclusionProofs = (hashes: Buffer[]): { root: Buffer; proofs: Buffer[][] } => {
  const rows = rowsOf(hashes);
  return { root: rootOfLeaves(rows.at(-1)!), proofs: hashes.map((_, index) => climb(index, rows)) };
};

/** Whether the leaf is number `index` in the tree of `size` leaves with this root (RFC 9162, section 2.1.3.2). */
export const verifyInclusion = (leaf: Buffer, index: number, size: number, proof: Buffer[], root: Buffer): boolean => {
  if (!isCount(index) || !isCount(size) || index >= size) return false;
  let [position, last, hash] = [index, size - 1, leaf];
  for (const sibling of proof) {
    if (last === 0) return false;
    if (position % 2 === 1 || position === last) {
      hash = nodeHash(sibling, hash);
      while (position % 2 === 0 && position > 0) [position, last] = [half(position), half(last)];
    } else hash = nodeHash(hash, sibling);
    [position, last] = [half(position), half(last)];
  }
  return last === 0 && hash.equals(root);
};

/** The proof that the tree of the first `size` leaves is the beginning of this one (section 2.1.2). */
export const consistencyProof = (size: number, hashes: Buffer[]): Buffer[] => {
  if (!Number.isInteger(size) || size < 1 || size > hashes.length) throw new RangeError(`no tree of ${size} leaves`);
  const subproof = (m: number, part: Buffer[], whole: boolean): Buffer[] => {
    if (m === part.length) return whole ? [] : [rootOfLeaves(part)];
    const split = largestPowerBelow(part.length);
    return m <= split
      ? [...subproof(m, part.slice(0, split), whole), rootOfLeaves(part.slice(split))]
      : [...subproof(m - split, part.slice(split), false), rootOfLeaves(part.slice(0, split))];
  };
  return subproof(size, hashes, true);
};

/**
 * Whether the tree of `size` with `root` is the beginning of the tree of `laterSize` with `laterRoot` (RFC 9162,
 * section 2.1.4.2).
 */
export const verifyConsistency = (
  size: number,
  laterSize: number,
  root: Buffer,
  laterRoot: Buffer,
  proof: Buffer[],
): boolean => {
  if (!isCount(size) || !isCount(laterSize) || size < 1 || size > laterSize) return false;
  if (size === laterSize) return proof.length === 0 && root.equals(laterRoot);
  // A tree that is one perfect subtree of the later one is not repeated in the proof.
  const [first, ...rest] = largestPowerBelow(size + 1) === size ? [root, ...proof] : proof;
  if (first === undefined) return false;
  let [position, last, early, late] = [size - 1, laterSize - 1, first, first];
  while (position % 2 === 1) [position, last] = [half(position), half(last)];
  for (const hash of rest) {
    if (last === 0) return false;
    if (position % 2 === 1 || position === last) {
      early = nodeHash(hash, early);
      late = nodeHash(hash, late);
      while (position % 2 === 0 && position > 0) [position, last] = [half(position), half(last)];
    } else late = nodeHash(late, hash);
    [position, last] = [half(position), half(last)];
  }
  return last === 0 && early.equals(root) && late.equals(laterRoot);
};

const half = (count: number): number => Math.floor(count / 2);
const isCount = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;
/** The largest power of two strictly below `count`. */
const largestPowerBelow = (count: number): number => {
  let power = 1;
  while (power * 2 < count) power *= 2;
  return power;
};

/** The right edge of a growing tree: the roots of its perfect subtrees, largest first. All that is needed to append. */
export type MerkleHead = { size: number; subtrees: Sha256[] };
export const EMPTY_HEAD: MerkleHead = { size: 0, subtrees: [] };

/** The head with one more leaf; the given one is not changed. */
export const appendLeaf = (head: MerkleHead, leaf: Uint8Array): MerkleHead => {
  const subtrees = [...head.subtrees];
  let hash: Buffer = Buffer.from(leaf);
  // Each trailing one bit of the old size is a subtree as large as what has just been joined.
  for (let size = head.size; size % 2 === 1; size = half(size)) {
    const left = subtrees.pop();
    if (left === undefined) throw new Error('the head lacks a subtree');
    hash = nodeHash(Buffer.from(left, 'hex'), hash);
  }
  return { size: head.size + 1, subtrees: [...subtrees, hexOf(hash)] };
};

/** The root of the whole tree, hexadecimal: the same as `rootOfLeaves` of all its leaves. */
export const rootOfHead = (head: MerkleHead): Sha256 => {
  const [smallest, ...larger] = head.subtrees.map((hex): Buffer => Buffer.from(hex, 'hex')).reverse();
  if (smallest === undefined) return hexOf(rootOfLeaves([]));
  return hexOf(larger.reduce((right, left) => nodeHash(left, right), smallest));
};

const hexOf = (hash: Buffer): Sha256 => Sha256.parse(hash.toString('hex'));

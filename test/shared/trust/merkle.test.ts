import { assert, property, uint8Array } from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  allInclusionProofs,
  appendLeaf,
  consistencyProof,
  EMPTY_HEAD,
  inclusionProof,
  leafHash,
  rootOfHead,
  rootOfLeaves,
  verifyConsistency,
  verifyInclusion,
} from '#shared/trust/merkle.ts';
import { merkleVectors } from './vectors.ts';

const hex = (hashes: Buffer[]): string[] => hashes.map((hash) => hash.toString('hex'));
const LEAVES_MAX = 40;
const leaves = Array.from({ length: LEAVES_MAX }, (_, index) => leafHash(`entry ${index}`));
const flipped = (hash: Buffer): Buffer => Buffer.from(hash.map((byte, index) => (index === 7 ? byte ^ 1 : byte)));

describe('the vectors of Certificate Transparency', async () => {
  const vectors = await merkleVectors();
  const hashes = vectors.leaves.map((leaf) => leafHash(Buffer.from(leaf, 'hex')));
  test('give the published roots', () => {
    expect(rootOfLeaves([]).toString('hex')).toBe(vectors.emptyRoot);
    expect(vectors.roots.map((_, index) => rootOfLeaves(hashes.slice(0, index + 1)).toString('hex'))).toEqual(
      vectors.roots,
    );
  });
  test('give the published inclusion proofs', () => {
    for (const { index, size, proof } of vectors.inclusion) {
      expect(hex(inclusionProof(index, hashes.slice(0, size)))).toEqual(proof);
    }
  });
  test('give the published consistency proofs', () => {
    for (const { from, to, proof } of vectors.consistency) {
      expect(hex(consistencyProof(from, hashes.slice(0, to)))).toEqual(proof);
    }
  });
});

test('every leaf of every small tree has a proof, which proves nothing else', () => {
  for (let size = 1; size <= LEAVES_MAX; size += 1) {
    const part = leaves.slice(0, size);
    const { root, proofs } = allInclusionProofs(part);
    expect(root.equals(rootOfLeaves(part))).toBe(true);
    for (const [index, proof] of proofs.entries()) {
      const leaf = part[index]!;
      expect(hex(proof)).toEqual(hex(inclusionProof(index, part)));
      expect(verifyInclusion(leaf, index, size, proof, root)).toBe(true);
      expect(verifyInclusion(flipped(leaf), index, size, proof, root)).toBe(false);
      expect(verifyInclusion(leaf, index, size, proof, flipped(root))).toBe(false);
      expect(verifyInclusion(leaf, index, size, [...proof, root], root)).toBe(false);
      expect(verifyInclusion(leaf, index, size, proof.slice(1), root)).toBe(size === 1);
      expect(verifyInclusion(leaf, size, size, proof, root)).toBe(false);
      for (let other = 0; other < size; other += 1) {
        expect(verifyInclusion(leaf, other, size, proof, root)).toBe(other === index);
      }
      for (const place of proof.keys()) {
        expect(verifyInclusion(leaf, index, size, proof.with(place, flipped(proof[place]!)), root)).toBe(false);
      }
    }
  }
});

test('every small tree is provably the beginning of every larger one, and a changed one is not', () => {
  const roots = leaves.map((_, index) => rootOfLeaves(leaves.slice(0, index + 1)));
  for (let to = 1; to <= LEAVES_MAX; to += 1) {
    for (let from = 1; from <= to; from += 1) {
      const proof = consistencyProof(from, leaves.slice(0, to));
      const [early, late] = [roots[from - 1]!, roots[to - 1]!];
      expect(verifyConsistency(from, to, early, late, proof)).toBe(true);
      expect(verifyConsistency(from, to, flipped(early), late, proof)).toBe(false);
      expect(verifyConsistency(from, to, early, flipped(late), proof)).toBe(false);
      expect(verifyConsistency(from, to, early, late, [...proof, late])).toBe(false);
      expect(verifyConsistency(to, from, late, early, proof)).toBe(from === to);
      const rewritten = leaves.slice(0, from).with(from - 1, flipped(leaves[from - 1]!));
      expect(verifyConsistency(from, to, rootOfLeaves(rewritten), late, proof)).toBe(false);
    }
  }
});

test('appending one leaf after the other gives the root of the whole tree at each step', () => {
  let head = EMPTY_HEAD;
  expect(rootOfHead(head)).toBe(rootOfLeaves([]).toString('hex'));
  for (const [index, leaf] of leaves.entries()) {
    head = appendLeaf(head, leaf);
    expect(head.size).toBe(index + 1);
    expect(rootOfHead(head)).toBe(rootOfLeaves(leaves.slice(0, index + 1)).toString('hex'));
  }
});

test('a node never passes for a leaf', () => {
  assert(
    property(uint8Array({ maxLength: 64 }), uint8Array({ maxLength: 64 }), (left, right) => {
      const pair = [leafHash(left), leafHash(right)];
      expect(rootOfLeaves([leafHash(Buffer.concat(pair))]).equals(rootOfLeaves(pair))).toBe(false);
    }),
  );
});

test('proofs of what is not there are refused loudly', () => {
  expect(() => inclusionProof(3, leaves.slice(0, 3))).toThrow(RangeError);
  expect(() => inclusionProof(-1, leaves)).toThrow(RangeError);
  expect(() => consistencyProof(0, leaves)).toThrow(RangeError);
  expect(() => consistencyProof(LEAVES_MAX + 1, leaves)).toThrow(RangeError);
});

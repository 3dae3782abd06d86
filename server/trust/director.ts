/**
 * The director's instruction to devices: one signature over the Merkle root of a batch, and for each device its leaf with the
 * way up.
 */

import { Sha256 } from '#shared/ids.ts';
import type { Desired, DesiredBatch, DesiredLeaf } from '#shared/messages.ts';
import { canonicalJson } from '#shared/trust/canonical.ts';
import { allInclusionProofs, leafHash } from '#shared/trust/merkle.ts';
import { signPayload } from '#shared/trust/signed.ts';
import type { Signer } from '#shared/trust/signers.ts';

/** One document a leaf, in their order. Nothing is signed for no leaves. */
export const signDesired = (
  signer: Signer,
  leaves: DesiredLeaf[],
  times: { issuedAt: number; expires: number },
): Desired[] => {
  if (leaves.length === 0) return [];
  const texts = leaves.map((leaf) => canonicalJson(leaf));
  const { root, proofs } = allInclusionProofs(texts.map(leafHash));
  const payload: DesiredBatch = {
    type: 'sluice/batch/1',
    root: Sha256.parse(root.toString('hex')),
    size: leaves.length,
    ...times,
  };
  const batch = signPayload(signer, payload);
  // Proofs share most of their hashes: write each out once.
  const written = new Map<Buffer, Sha256>();
  const hexOf = (hash: Buffer): Sha256 => {
    const hex = written.get(hash) ?? Sha256.parse(hash.toString('hex'));
    written.set(hash, hex);
    return hex;
  };
  return texts.map((leaf, index) => ({ leaf, index, proof: proofs[index]!.map(hexOf), batch }));
};

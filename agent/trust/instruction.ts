/** The director's instruction, checked in a fixed order: form, signature, proof, whom it is for, replay, expiry. */
import type { Id } from '#shared/ids.ts';
import { Desired, DesiredBatch, DesiredLeaf } from '#shared/messages.ts';
import { leafHash, verifyInclusion } from '#shared/trust/merkle.ts';
import { verifySigned } from '#shared/trust/signed.ts';
import { delegationOf, type TufDocument } from '#shared/trust/tuf.ts';
import { bad, good, type TrustResult } from './trust-result.ts';

/** The role in targets metadata whose key signs instructions. */
const DIRECTOR_ROLE = 'director';

export type ReadInstruction = { leaf: DesiredLeaf; batch: DesiredBatch };

/** Form, signature and proof: from here on it is the director's instruction, and its times are attested. */
export const readInstruction = (desired: unknown, targets: TufDocument<'targets'>): TrustResult<ReadInstruction> => {
  const document = Desired.safeParse(desired);
  if (!document.success) return bad('INSTRUCTION_FORMAT', 'the desired document is not of the expected form');
  const { leaf: leafText, index, proof, batch: signed } = document.data;
  const [leaf, batch] = [DesiredLeaf.safeParse(parseJson(leafText)), DesiredBatch.safeParse(parseJson(signed.payload))];
  if (!leaf.success || !batch.success)
    return bad('INSTRUCTION_FORMAT', 'the leaf or the batch is not of the expected form');
  const director = delegationOf(targets.signed, DIRECTOR_ROLE);
  // A batch carries one signature, so a director of several keys can't be satisfied by it.
  if (director?.threshold !== 1 || !director.keys.some(({ key }) => verifySigned(signed, key))) {
    return bad('INSTRUCTION_SIGNATURE', 'the batch is not signed by the key that targets delegates to the director');
  }
  const hashes = proof.map((hash) => Buffer.from(hash, 'hex'));
  const root = Buffer.from(batch.data.root, 'hex');
  if (!verifyInclusion(leafHash(leafText), index, batch.data.size, hashes, root)) {
    return bad('INSTRUCTION_PROOF', 'the leaf is not part of the batch that was signed');
  }
  return good({ leaf: leaf.data, batch: batch.data });
};

/**
 * Whether the instruction counts for this device now. `seqAccepted` is the highest that was accepted: what is lower is
 * a replay; the same again is the same document sent twice, or signed again before it expired.
 */
export const judgeInstruction = (
  { leaf, batch }: ReadInstruction,
  facts: { device: Id; seqAccepted: number; time: number },
): TrustResult<DesiredLeaf> => {
  if (leaf.device !== facts.device) return bad('INSTRUCTION_NOT_FOR_ME', `it is for device ${leaf.device}`);
  if (leaf.seq < facts.seqAccepted) {
    return bad('INSTRUCTION_REPLAY', `its number is ${leaf.seq}, but ${facts.seqAccepted} was accepted already`);
  }
  const expires = Math.min(leaf.expires, batch.expires);
  if (expires <= facts.time) return bad('INSTRUCTION_EXPIRED', `it expired at ${new Date(expires).toISOString()}`);
  return good(leaf);
};

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

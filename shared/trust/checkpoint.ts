/** The log key's signature on the audit log: how many entries it has, and its Merkle root. */
import { z } from 'zod';
import { Millis, Sha256 } from '../ids.ts';
import type { Signed } from '../messages.ts';
import { type MerkleHead, rootOfHead } from './merkle.ts';
import { signPayload } from './signed.ts';
import type { Signer } from './signers.ts';

/**
 * Canonical JSON of this is the payload of a `Signed`. An auditor who keeps one can tell later whether the past was
 * rewritten.
 */
export const Checkpoint = z.object({
  type: z.literal('sluice/checkpoint/1'),
  size: z.number().int().min(0),
  root: Sha256,
  at: Millis,
});
export type Checkpoint = z.infer<typeof Checkpoint>;

export const signCheckpoint = (log: Signer, head: MerkleHead, at: number): Signed => {
  const checkpoint: Checkpoint = { type: 'sluice/checkpoint/1', size: head.size, root: rootOfHead(head), at };
  return signPayload(log, checkpoint);
};

/** Undefined when the text is not a checkpoint. Says nothing about who signed it. */
export const parseCheckpoint = (payload: string): Checkpoint | undefined => {
  try {
    return Checkpoint.safeParse(JSON.parse(payload)).data;
  } catch {
    return undefined; // not JSON
  }
};

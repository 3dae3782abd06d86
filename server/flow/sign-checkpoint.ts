/** The log key's word on how long the audit log is and what its Merkle root is. Whoever keeps one can tell later whether the log was rewritten. */
import type { Signed } from '#shared/messages.ts';
import type { Checkpoint } from '#shared/trust/checkpoint.ts';
import { rootOfHead } from '#shared/trust/merkle.ts';
import { signPayload } from '#shared/trust/signed.ts';
import type { Signer } from '#shared/trust/signers.ts';
import type { AuditHead, Store } from '../store/store.ts';

/** Where the newest checkpoint is kept among the store's small values. */
export const CHECKPOINT_META = 'audit-checkpoint';

export const checkpointOf = (log: Signer, head: AuditHead, at: number): Signed => {
  const checkpoint: Checkpoint = { type: 'sluice/checkpoint/1', size: head.size, root: rootOfHead(head), at };
  return signPayload(log, checkpoint);
};

/** Signs the log as it is now and keeps the checkpoint. */
export const signCheckpoint = async (deps: {
  store: Pick<Store, 'getAuditHead' | 'setMeta'>;
  log: Signer;
  now: () => number;
}): Promise<Signed> => {
  const signed = checkpointOf(deps.log, await deps.store.getAuditHead(), deps.now());
  await deps.store.setMeta(CHECKPOINT_META, JSON.stringify(signed));
  return signed;
};

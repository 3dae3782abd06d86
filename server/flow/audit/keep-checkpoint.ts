/**
 * Signs the audit log as it is now and keeps the checkpoint: an auditor with an older one can detect a rewritten log.
 */

import type { Store } from '#server/store/store.ts';
import type { Signed } from '#shared/messages.ts';
import { signCheckpoint } from '#shared/trust/checkpoint.ts';
import type { Signer } from '#shared/trust/signers.ts';

/** Where the newest checkpoint is kept among the store's small values. */
export const CHECKPOINT_META = 'audit-checkpoint';

export const keepCheckpoint = async (deps: {
  store: Pick<Store, 'getAuditHead' | 'setMeta'>;
  log: Signer;
  now: () => number;
}): Promise<Signed> => {
  const signed = signCheckpoint(deps.log, await deps.store.getAuditHead(), deps.now());
  await deps.store.setMeta(CHECKPOINT_META, JSON.stringify(signed));
  return signed;
};

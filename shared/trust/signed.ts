/** Payloads with one signature over exactly their bytes: receipts, enrolments, the director's batches, checkpoints. */
import type { Signed } from '../messages.ts';
import { canonicalJson } from './canonical.ts';
import { keyIdOf, type PublicKey, verifySignature } from './keys.ts';
import type { Signer } from './signers.ts';

/**
 * `payload` becomes canonical JSON. Its `type` member says what it is, so that no signature can be used for something
 * else.
 */
export const signPayload = (signer: Signer, payload: { type: string; [member: string]: unknown }): Signed => {
  const text = canonicalJson(payload);
  return { payload: text, keyId: signer.keyId, sig: signer.sign(text) };
};

/** Whether this key signed the payload. The `keyId` must be this key's too, so that a record never names another. */
export const verifySigned = (signed: Signed, key: PublicKey): boolean =>
  signed.keyId === keyIdOf(key) && verifySignature(key, signed.payload, signed.sig);

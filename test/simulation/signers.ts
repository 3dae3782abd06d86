/**
 * Signers made of a number, with the fast signatures of node:crypto: Ed25519 gives the same bytes no matter what signs,
 * and everything is really verified.
 */
import { createHash, createPrivateKey, createPublicKey, sign } from 'node:crypto';
import { ed25519PublicKey, keyIdOf } from '#shared/trust/keys.ts';
import type { Signer } from '#shared/trust/signers.ts';

const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex');

export const signerOf = (name: string): Signer => {
  const secret = createHash('sha256').update(`simulation ${name}`).digest();
  const object = createPrivateKey({ key: Buffer.concat([PKCS8_PREFIX, secret]), format: 'der', type: 'pkcs8' });
  const raw = createPublicKey(object).export({ format: 'der', type: 'spki' }).subarray(-32);
  const key = ed25519PublicKey(raw.toString('hex'));
  return {
    key,
    keyId: keyIdOf(key),
    sign: (bytes) => sign(null, typeof bytes === 'string' ? Buffer.from(bytes) : bytes, object).toString('hex'),
  };
};

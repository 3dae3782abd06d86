/**
 * Private keys, and the only place that signs, with ed25519-signer.ts: Ed25519 with tweetnacl, RSA-PSS with node-rsa.
 * Whatever is signed here is verified elsewhere by another implementation (`keys.ts`).
 */
import type { KeyObject } from 'node:crypto';
import Rsa from 'node-rsa';
import { accept, type Result } from '../problems.ts';
import { bytesOf, ed25519SignerFromPem, generateEd25519Key, readPrivateKey, type Signer } from './ed25519-signer.ts';
import { keyIdOf, PSS_SALT_BYTES, RSA_BITS_MIN } from './keys.ts';

export type { Signer } from './ed25519-signer.ts';

/**
 * A new private key as PKCS#8 PEM, as `openssl genpkey` would write it. Keep it in a file that only its owner can read.
 */
export const generatePrivateKey = (kind: 'ed25519' | 'rsa-3072'): string =>
  kind === 'ed25519' ? generateEd25519Key() : `${new Rsa({ b: RSA_BITS_MIN }).exportKey('pkcs8-private-pem').trim()}\n`;

/**
 * From a PKCS#8 PEM without passphrase. Refuses (`invalid-request`) what can't be read, and keys that no one would
 * accept as signer.
 */
export const signerFromPem = (pem: string): Result<Signer> => {
  const read = readPrivateKey(pem);
  if (!read.ok) return read;
  const { object, key } = read.value;
  if (key.keytype === 'ed25519') return ed25519SignerFromPem(pem);
  return accept({ key, keyId: keyIdOf(key), sign: signWithNodeRsa(object) });
};

const signWithNodeRsa = (object: KeyObject): Signer['sign'] => {
  const pem = object.export({ type: 'pkcs8', format: 'pem' }).toString();
  const rsa = new Rsa(pem, 'pkcs8-private-pem', {
    signingScheme: { scheme: 'pss', hash: 'sha256', saltLength: PSS_SALT_BYTES },
  });
  return (bytes) => rsa.sign(Buffer.from(bytesOf(bytes)), 'hex');
};

/**
 * Private keys, and the only place that signs: Ed25519 with tweetnacl, RSA-PSS with node-rsa. Whatever is signed here is
 * verified elsewhere by another implementation (`keys.ts`). Sign digests and small documents only: tweetnacl takes 32 ms for a megabyte.
 */
import { createPrivateKey, createPublicKey, type KeyObject } from 'node:crypto';
import Rsa from 'node-rsa';
import nacl from 'tweetnacl';
import type { Sha256 } from '../ids.ts';
import { accept, type Result, refuse } from '../problems.ts';
import { keyIdOf, PSS_SALT_BYTES, type PublicKey, publicKeyOf, RSA_BITS_MIN } from './keys.ts';

/** Whoever can sign with one key. `sign` gives the signature in hexadecimal; a text is signed as its UTF-8. */
export type Signer = { key: PublicKey; keyId: Sha256; sign(bytes: Uint8Array | string): string };

/** The DER of an Ed25519 PKCS#8 up to its 32 bytes of seed (RFC 8410, section 7). */
const ED25519_PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex');

/** A new private key as PKCS#8 PEM, as `openssl genpkey` would write it. Keep it in a file that only its owner can read. */
export const generatePrivateKey = (kind: 'ed25519' | 'rsa-3072'): string => {
  if (kind === 'rsa-3072') {
    return `${new Rsa({ b: RSA_BITS_MIN }).exportKey('pkcs8-private-pem').trim()}\n`;
  }
  const base64 = Buffer.concat([ED25519_PKCS8_PREFIX, nacl.randomBytes(32)]).toString('base64');
  return `-----BEGIN PRIVATE KEY-----\n${base64}\n-----END PRIVATE KEY-----\n`;
};

/** From a PKCS#8 PEM without passphrase. Refuses (`invalid-request`) what can't be read, and keys that nobody would accept as signer. */
export const signerFromPem = (pem: string): Result<Signer> => {
  let object: KeyObject;
  try {
    object = createPrivateKey(pem);
  } catch {
    return refuse('invalid-request', 'not a private key that can be read: expected PKCS#8 PEM without a passphrase');
  }
  const key = publicKeyOf(createPublicKey(object));
  if (!key.ok) return key;
  const sign = key.value.keytype === 'ed25519' ? signWithNacl(object) : signWithNodeRsa(object);
  return accept({ key: key.value, keyId: keyIdOf(key.value), sign });
};

const signWithNacl = (object: KeyObject): Signer['sign'] => {
  const der = object.export({ type: 'pkcs8', format: 'der' });
  const start = ED25519_PKCS8_PREFIX.length;
  const { secretKey } = nacl.sign.keyPair.fromSeed(der.subarray(start, start + nacl.sign.seedLength));
  return (bytes) => Buffer.from(nacl.sign.detached(bytesOf(bytes), secretKey)).toString('hex');
};

const signWithNodeRsa = (object: KeyObject): Signer['sign'] => {
  const pem = object.export({ type: 'pkcs8', format: 'pem' }).toString();
  const rsa = new Rsa(pem, 'pkcs8-private-pem', {
    signingScheme: { scheme: 'pss', hash: 'sha256', saltLength: PSS_SALT_BYTES },
  });
  return (bytes) => rsa.sign(Buffer.from(bytesOf(bytes)), 'hex');
};

const bytesOf = (bytes: Uint8Array | string): Uint8Array => (typeof bytes === 'string' ? Buffer.from(bytes) : bytes);

/**
 * Ed25519 private keys, made and used with tweetnacl; apart from signers.ts, so that a device need not carry RSA.
 * Whatever is signed here is verified elsewhere by another implementation (`keys.ts`). Sign digests and small documents
 * only: tweetnacl takes 32 ms for a megabyte.
 */
import { createPrivateKey, createPublicKey, type KeyObject } from 'node:crypto';
import nacl from 'tweetnacl';
import type { Sha256 } from '../ids.ts';
import { accept, type Result, refuse } from '../problems.ts';
import { keyIdOf, type PublicKey, publicKeyOf } from './keys.ts';

/** Something that can sign with one key. `sign` gives the signature in hexadecimal; a text is signed as its UTF-8. */
export type Signer = { key: PublicKey; keyId: Sha256; sign(bytes: Uint8Array | string): string };

/** The DER of an Ed25519 PKCS#8 up to its 32 bytes of seed (RFC 8410, section 7). */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex');

/**
 * A new private key as PKCS#8 PEM, as `openssl genpkey` would write it. Keep it in a file that only its owner can read.
 */
export const generateEd25519Key = (): string => {
  const base64 = Buffer.concat([PKCS8_PREFIX, nacl.randomBytes(32)]).toString('base64');
  return `-----BEGIN PRIVATE KEY-----\n${base64}\n-----END PRIVATE KEY-----\n`;
};

/** What a PEM holds; refuses (`invalid-request`) what can't be read, and keys that no one would accept as signer. */
export const readPrivateKey = (pem: string): Result<{ object: KeyObject; key: PublicKey }> => {
  let object: KeyObject;
  try {
    object = createPrivateKey(pem);
  } catch {
    return refuse('invalid-request', 'not a private key that can be read: expected PKCS#8 PEM without a passphrase');
  }
  const key = publicKeyOf(createPublicKey(object));
  return key.ok ? accept({ object, key: key.value }) : key;
};

/** From a PKCS#8 PEM without passphrase. Refuses (`invalid-request`) any other kind of key, too. */
export const ed25519SignerFromPem = (pem: string): Result<Signer> => {
  const read = readPrivateKey(pem);
  if (!read.ok) return read;
  const { object, key } = read.value;
  if (key.keytype !== 'ed25519') return refuse('invalid-request', 'not an Ed25519 key');
  return accept({ key, keyId: keyIdOf(key), sign: signWithNacl(object) });
};

const signWithNacl = (object: KeyObject): Signer['sign'] => {
  const der = object.export({ type: 'pkcs8', format: 'der' });
  const start = PKCS8_PREFIX.length;
  const { secretKey } = nacl.sign.keyPair.fromSeed(der.subarray(start, start + nacl.sign.seedLength));
  return (bytes) => Buffer.from(nacl.sign.detached(bytesOf(bytes), secretKey)).toString('hex');
};

export const bytesOf = (bytes: Uint8Array | string): Uint8Array =>
  typeof bytes === 'string' ? Buffer.from(bytes) : bytes;

/** Public keys in TUF's form, their ids, and the only place that verifies signatures: with `node:crypto`. */
import { constants, createPublicKey, type KeyObject, verify } from 'node:crypto';
import { z } from 'zod';
import type { Sha256 } from '../ids.ts';
import { accept, type Result, refuse } from '../problems.ts';
import { canonicalTuf, sha256Hex } from './canonical.ts';

/**
 * TUF specification, section 4.3: raw hexadecimal for Ed25519, SPKI PEM for RSA. Other members are refused: they would
 * change the key id.
 */
export const PublicKey = z.discriminatedUnion('keytype', [
  z.strictObject({
    keytype: z.literal('ed25519'),
    scheme: z.literal('ed25519'),
    keyval: z.strictObject({ public: z.string().regex(/^[0-9a-f]{64}$/) }),
  }),
  z.strictObject({
    keytype: z.literal('rsa'),
    scheme: z.literal('rsassa-pss-sha256'),
    keyval: z.strictObject({ public: z.string().max(4096).startsWith('-----BEGIN PUBLIC KEY-----\n') }),
  }),
]);
export type PublicKey = {
  keytype: 'ed25519' | 'rsa';
  scheme: 'ed25519' | 'rsassa-pss-sha256';
  keyval: { public: string };
};

export const RSA_BITS_MIN = 3072;
const RSA_BITS_MAX = 8192;
/** The salt of RSA-PSS signatures: as long as the digest, as TUF clients expect. */
export const PSS_SALT_BYTES = 32;
/** The DER of an Ed25519 SPKI up to its 32 raw bytes (RFC 8410, section 4). */
const ED25519_SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex');
const PEM_CHARS_MAX = 4096;

/** Points of order 1 to 8, sign bit cleared: with such a key, anyone can make signatures that verify. */
const ED25519_SMALL_ORDER = new Set([
  '00'.repeat(32),
  `01${'00'.repeat(31)}`,
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  `ec${'ff'.repeat(30)}7f`,
  `ed${'ff'.repeat(30)}7f`,
  `ee${'ff'.repeat(30)}7f`,
]);
const isSmallOrder = (rawHex: string): boolean => {
  const raw = Buffer.from(rawHex, 'hex');
  raw[31]! &= 0x7f;
  return ED25519_SMALL_ORDER.has(raw.toString('hex'));
};

/** SHA-256 of the canonical form of `{keytype, scheme, keyval}` (TUF specification, section 4.2). */
export const keyIdOf = (key: PublicKey): Sha256 =>
  sha256Hex(canonicalTuf({ keytype: key.keytype, scheme: key.scheme, keyval: { public: key.keyval.public } }));

/** From the 64 hexadecimal digits of a raw Ed25519 public key. */
export const ed25519PublicKey = (rawHex: string): PublicKey => ({
  keytype: 'ed25519',
  scheme: 'ed25519',
  keyval: { public: rawHex.toLowerCase() },
});

/**
 * A public key as people paste it: SPKI PEM, or 64 hexadecimal digits of raw Ed25519. The PEM is normalised, so that
 * one key has one id. Refuses private keys, other kinds, RSA below 3072 bits or with an exponent other than 65537
 * (`invalid-request`).
 */
export const parsePublicKey = (text: string): Result<PublicKey> => {
  const trimmed = text.trim();
  if (/^[0-9a-fA-F]{64}$/.test(trimmed)) return checked(ed25519PublicKey(trimmed));
  if (trimmed.includes('PRIVATE KEY')) {
    return refuse('invalid-request', 'this is a private key: give the public one, and keep this one to yourself');
  }
  if (trimmed.length > PEM_CHARS_MAX || !trimmed.startsWith('-----BEGIN PUBLIC KEY-----')) {
    return refuse('invalid-request', 'not a public key: expected PEM that begins with -----BEGIN PUBLIC KEY-----');
  }
  let object: KeyObject;
  try {
    object = createPublicKey(trimmed);
  } catch {
    return refuse('invalid-request', 'the PEM of the public key cannot be read');
  }
  return publicKeyOf(object);
};

/** The same, from a key that `node:crypto` has read already. */
export const publicKeyOf = (object: KeyObject): Result<PublicKey> => {
  switch (object.asymmetricKeyType) {
    case 'ed25519': {
      const der = object.export({ type: 'spki', format: 'der' });
      return checked(ed25519PublicKey(der.subarray(ED25519_SPKI_PREFIX.length).toString('hex')));
    }
    case 'rsa':
      return checked({
        keytype: 'rsa',
        scheme: 'rsassa-pss-sha256',
        keyval: { public: object.export({ type: 'spki', format: 'pem' }).toString() },
      });
    default:
      return refuse('invalid-request', `keys of type ${object.asymmetricKeyType} are not used here: Ed25519 or RSA`);
  }
};

const checked = (key: PublicKey): Result<PublicKey> => {
  const weakness = weaknessOf(key);
  return weakness === undefined ? accept(key) : refuse('invalid-request', weakness);
};

const weaknessOf = (key: PublicKey): string | undefined => {
  if (key.keytype === 'ed25519') {
    return isSmallOrder(key.keyval.public)
      ? 'this Ed25519 key is a point of small order, which proves nothing'
      : undefined;
  }
  const { modulusLength = 0, publicExponent = 0n } = createPublicKey(key.keyval.public).asymmetricKeyDetails ?? {};
  if (modulusLength < RSA_BITS_MIN || modulusLength > RSA_BITS_MAX) {
    return `this RSA key has ${modulusLength} bits; it needs ${RSA_BITS_MIN} to ${RSA_BITS_MAX}`;
  }
  return publicExponent === 65537n ? undefined : `this RSA key has the exponent ${publicExponent}; it needs 65537`;
};

export const publicKeyPem = (key: PublicKey): string =>
  objectOf(key).export({ type: 'spki', format: 'pem' }).toString();

/** The SPKI in DER, hexadecimal: two keys are the same key exactly when this is the same, whatever ids they go by. */
export const publicKeyDer = (key: PublicKey): string =>
  objectOf(key).export({ type: 'spki', format: 'der' }).toString('hex');

const objectOf = (key: PublicKey): KeyObject => {
  if (key.keytype === 'rsa') return createPublicKey(key.keyval.public);
  const der = Buffer.concat([ED25519_SPKI_PREFIX, Buffer.from(key.keyval.public, 'hex')]);
  return createPublicKey({ key: der, format: 'der', type: 'spki' });
};

/**
 * Reading a key costs as much as verifying with it, and few keys sign much; undefined remembers a key that must not be
 * used.
 */
const objects = new Map<string, KeyObject | undefined>();
const OBJECTS_MAX = 4096;
const usableObjectOf = (key: PublicKey): KeyObject | undefined => {
  const name = `${key.keytype}:${key.keyval.public}`;
  if (objects.has(name)) return objects.get(name);
  let object: KeyObject | undefined;
  try {
    if (PublicKey.safeParse(key).success && weaknessOf(key) === undefined) object = objectOf(key);
    if (object?.asymmetricKeyType !== key.keytype) object = undefined;
  } catch {
    object = undefined; // not a key at all
  }
  const [oldest] = objects.keys();
  if (objects.size >= OBJECTS_MAX && oldest !== undefined) objects.delete(oldest);
  objects.set(name, object);
  return object;
};

/**
 * Whether `sigHex` is this key's signature over the bytes (a text: its UTF-8). Never throws: a key that is malformed or
 * weak, or a signature of the wrong form, is simply not good. Ed25519 after RFC 8032 (s >= L is refused); RSA-PSS with
 * SHA-256 and a salt of 32.
 */
export const verifySignature = (key: PublicKey, bytes: Uint8Array | string, sigHex: string): boolean => {
  if (!/^(?:[0-9a-f]{2}){1,1024}$/.test(sigHex)) return false;
  const object = usableObjectOf(key);
  if (object === undefined) return false;
  const data = typeof bytes === 'string' ? Buffer.from(bytes) : bytes;
  const signature = Buffer.from(sigHex, 'hex');
  try {
    if (key.keytype === 'ed25519') return verify(null, data, object, signature);
    const padding = constants.RSA_PKCS1_PSS_PADDING;
    return verify('sha256', data, { key: object, padding, saltLength: PSS_SALT_BYTES }, signature);
  } catch {
    return false; // OpenSSL refuses to look at it
  }
};

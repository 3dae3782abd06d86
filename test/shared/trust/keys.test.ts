import { createHash, generateKeyPairSync, verify } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import {
  ed25519PublicKey,
  keyIdOf,
  type PublicKey,
  parsePublicKey,
  publicKeyDer,
  publicKeyPem,
  verifySignature,
} from '#shared/trust/keys.ts';
import { signPayload, verifySigned } from '#shared/trust/signed.ts';
import { generatePrivateKey, type Signer, signerFromPem } from '#shared/trust/signers.ts';
import { ed25519Vectors, rsaPssVectors } from './vectors.ts';

const signerOf = (pem: string): Signer => {
  const signer = signerFromPem(pem);
  if (!signer.ok) throw new Error(signer.detail);
  return signer.value;
};
const parsed = (text: string): PublicKey => {
  const key = parsePublicKey(text);
  if (!key.ok) throw new Error(key.detail);
  return key.value;
};
const pemOfSeed = (seed: string): string => {
  const der = Buffer.from(`302e020100300506032b657004220420${seed}`, 'hex').toString('base64');
  return `-----BEGIN PRIVATE KEY-----\n${der}\n-----END PRIVATE KEY-----\n`;
};

describe('Ed25519', async () => {
  const vectors = await ed25519Vectors();

  test('signs and verifies the vectors of RFC 8032', () => {
    for (const { seed, publicKey, message, sig } of vectors.rfc8032) {
      const signer = signerOf(pemOfSeed(seed));
      expect(signer.key).toEqual(ed25519PublicKey(publicKey));
      expect(signer.sign(Buffer.from(message, 'hex'))).toBe(sig);
      expect(verifySignature(signer.key, Buffer.from(message, 'hex'), sig)).toBe(true);
    }
  });

  test('agrees with Wycheproof on good and on forged signatures', () => {
    const { publicKey, valid, invalid } = vectors.wycheproof;
    const judge = (one: { message: string; sig: string }): boolean =>
      verifySignature(ed25519PublicKey(publicKey), Buffer.from(one.message, 'hex'), one.sig);
    expect(valid.filter((one) => !judge(one))).toEqual([]);
    expect(invalid.filter(judge)).toEqual([]);
  });

  test('refuses a signature whose s was raised by the order of the group, so that there is only one', () => {
    const order = 2n ** 252n + 27742317777372353535851937790883648493n;
    for (const { publicKey, message, sig } of vectors.rfc8032) {
      const s = BigInt(`0x${Buffer.from(sig.slice(64), 'hex').reverse().toString('hex')}`) + order;
      const raised = Buffer.from(s.toString(16).padStart(64, '0'), 'hex').reverse().toString('hex');
      expect(verifySignature(ed25519PublicKey(publicKey), Buffer.from(message, 'hex'), sig.slice(0, 64) + raised)).toBe(
        false,
      );
    }
  });

  test('refuses signatures that are cut, lengthened, in capitals or not hexadecimal', () => {
    const { publicKey, message, sig } = vectors.rfc8032[1]!;
    const key = ed25519PublicKey(publicKey);
    for (const bad of ['', sig.slice(2), sig.slice(0, -2), `${sig}00`, `${sig}0`, sig.toUpperCase(), 'zz'.repeat(64)]) {
      expect(verifySignature(key, Buffer.from(message, 'hex'), bad)).toBe(false);
    }
  });

  test('refuses keys of small order, for which anyone can sign', () => {
    const neutral = `01${'00'.repeat(31)}`;
    const forged = neutral + '00'.repeat(32);
    // OpenSSL alone would accept this for every message.
    expect(verifySignature(ed25519PublicKey(neutral), 'anything', forged)).toBe(false);
    for (const key of [neutral, '00'.repeat(32), `ed${'ff'.repeat(31)}`]) {
      expect(parsePublicKey(key)).toMatchObject({ ok: false, code: 'invalid-request' });
    }
  });
});

describe('RSA-PSS', async () => {
  const vectors = await rsaPssVectors();

  test('verifies the vectors of Wycheproof, and nothing near them', () => {
    const key = parsed(vectors.publicKey);
    for (const { message, sig } of vectors.valid) {
      expect(verifySignature(key, Buffer.from(message, 'hex'), sig)).toBe(true);
      expect(verifySignature(key, Buffer.from(`${message}00`, 'hex'), sig)).toBe(false);
      expect(verifySignature(key, Buffer.from(message, 'hex'), sig.slice(0, -2))).toBe(false);
    }
  });

  test('what node-rsa signs, OpenSSL verifies with a salt of 32', () => {
    const signer = signerOf(generatePrivateKey('rsa-3072'));
    expect(signer.key.keytype).toBe('rsa');
    const sig = signer.sign('hello');
    expect(verifySignature(signer.key, 'hello', sig)).toBe(true);
    const options = { key: publicKeyPem(signer.key), padding: 6, saltLength: 32 };
    expect(verify('sha256', Buffer.from('hello'), options, Buffer.from(sig, 'hex'))).toBe(true);
    expect(verifySignature(signer.key, 'hellp', sig)).toBe(false);
  });

  test('keys that are short, or of another exponent, are refused wherever they come from', () => {
    const short = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const odd = generateKeyPairSync('rsa', { modulusLength: 3072, publicExponent: 3 });
    for (const { publicKey, privateKey } of [short, odd]) {
      const pem = publicKey.export({ type: 'spki', format: 'pem' }).toString();
      expect(parsePublicKey(pem)).toMatchObject({ ok: false, code: 'invalid-request' });
      expect(signerFromPem(privateKey.export({ type: 'pkcs8', format: 'pem' }).toString())).toMatchObject({
        ok: false,
      });
      const key: PublicKey = { keytype: 'rsa', scheme: 'rsassa-pss-sha256', keyval: { public: pem } };
      expect(verifySignature(key, 'x', '00'.repeat(256))).toBe(false);
    }
  });
});

describe('public keys', () => {
  const { key } = signerOf(generatePrivateKey('ed25519'));

  test('are one key however they are written', () => {
    const pem = publicKeyPem(key);
    for (const text of [
      key.keyval.public,
      key.keyval.public.toUpperCase(),
      pem,
      pem.trim(),
      pem.replaceAll('\n', '\r\n'),
    ]) {
      expect(parsed(text)).toEqual(key);
    }
    expect(publicKeyDer(key)).toBe(`302a300506032b6570032100${key.keyval.public}`);
  });

  test('have the id that TUF prescribes', () => {
    const text = `{"keytype":"ed25519","keyval":{"public":"${key.keyval.public}"},"scheme":"ed25519"}`;
    expect(keyIdOf(key)).toBe(createHash('sha256').update(text).digest('hex'));
  });

  test('must be public, and of a kind that is used here', () => {
    const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const pss = generateKeyPairSync('rsa-pss', { modulusLength: 3072 });
    for (const text of [
      '',
      'nonsense',
      '0'.repeat(63),
      generatePrivateKey('ed25519'),
      '-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n',
      ec.publicKey.export({ type: 'spki', format: 'pem' }).toString(),
      pss.publicKey.export({ type: 'spki', format: 'pem' }).toString(),
    ]) {
      expect(parsePublicKey(text)).toMatchObject({ ok: false, code: 'invalid-request' });
    }
  });

  test('that lie about their kind verify nothing', () => {
    const lying: PublicKey = { keytype: 'rsa', scheme: 'rsassa-pss-sha256', keyval: { public: publicKeyPem(key) } };
    expect(verifySignature(lying, 'x', '00'.repeat(64))).toBe(false);
    expect(verifySignature({ ...key, keyval: { public: 'zz' } }, 'x', '00'.repeat(64))).toBe(false);
  });
});

test('private keys that cannot be read are refused', () => {
  for (const pem of ['', 'nonsense', '-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----']) {
    expect(signerFromPem(pem)).toMatchObject({ ok: false, code: 'invalid-request' });
  }
});

test('a signed payload holds for its bytes, its key and its key id only', () => {
  const [signer, other] = [signerOf(generatePrivateKey('ed25519')), signerOf(generatePrivateKey('ed25519'))];
  const signed = signPayload(signer, { type: 'test/1', note: 'two\nlines' });
  expect(verifySigned(signed, signer.key)).toBe(true);
  expect(JSON.parse(signed.payload)).toEqual({ type: 'test/1', note: 'two\nlines' });
  expect(verifySigned(signed, other.key)).toBe(false);
  expect(verifySigned({ ...signed, payload: `${signed.payload} ` }, signer.key)).toBe(false);
  expect(verifySigned({ ...signed, keyId: other.keyId }, signer.key)).toBe(false);
});

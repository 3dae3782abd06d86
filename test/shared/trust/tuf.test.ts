import { describe, expect, test } from 'vitest';
import { keyIdOf } from '#shared/trust/keys.ts';
import {
  parseTuf,
  signersOf,
  signTuf,
  TARGETS_MAX,
  TUF_BYTES_MAX,
  TUF_SPEC_VERSION,
  type TufSigned,
  tufTime,
} from '#shared/trust/tuf.ts';
import { NOW, newSigner, rsaSigner } from '#test/server/trust/throw-away.ts';

const signer = newSigner();
const targets = (changes: object = {}): TufSigned => ({
  _type: 'targets',
  spec_version: TUF_SPEC_VERSION,
  version: 1,
  expires: tufTime(NOW),
  targets: {},
  ...changes,
});
const parse = (signed: TufSigned) => parseTuf('targets', Buffer.from(signTuf(signed, [signer])));

test('metadata is read back as it was signed', () => {
  const parsed = parse(targets());
  if (!parsed.ok) throw new Error(parsed.why);
  expect(signersOf(parsed.document, [{ keyId: signer.keyId, key: signer.key }])).toEqual([signer.keyId]);
  expect(signersOf(parsed.document, [{ keyId: signer.keyId, key: newSigner().key }])).toEqual([]);
  expect(parsed.document.signed.expires).toBe('2026-11-20T00:00:00Z');
});

describe('malformed metadata', () => {
  const file = { length: 1, hashes: { sha256: 'a'.repeat(64) } };
  const many = Object.fromEntries(Array.from({ length: TARGETS_MAX + 1 }, (_, index) => [`f${index}`, file]));
  test.each([
    ['another kind', targets({ _type: 'snapshot' })],
    ['version zero', targets({ version: 0 })],
    ['a time that is not one', targets({ expires: '2026-13-77T00:00:00Z' })],
    ['a time without its zone', targets({ expires: '2026-11-20T00:00:00' })],
    ['another major specification', targets({ spec_version: '2.0.0' })],
    ['more targets than anyone should parse', targets({ targets: many })],
    ['a target without a length', targets({ targets: { a: { hashes: {} } } })],
    ['a key id that is not its key’s', targets({ delegations: { keys: { ['0'.repeat(64)]: signer.key }, roles: [] } })],
    [
      'a delegation with threshold zero',
      targets({
        delegations: { keys: {}, roles: [{ name: 'x', keyids: [], threshold: 0, paths: ['x'], terminating: true }] },
      }),
    ],
  ])('with %s is refused', (_, signed) => {
    expect(parse(signed).ok).toBe(false);
  });
  test('that is no JSON, no UTF-8, too deep, has fractions, or is too long is refused', () => {
    const fraction = signTuf(targets(), [signer]).replace('"version":1', '"version":1.5');
    const deep = signTuf(targets(), [signer]).replace(
      '"targets":{}',
      `"targets":{},"x":${'['.repeat(50_000)}${']'.repeat(50_000)}`,
    );
    const long = `${signTuf(targets(), [signer])}${' '.repeat(TUF_BYTES_MAX.targets)}`;
    for (const text of ['', '{', 'null', '[]', fraction, deep, long]) {
      expect(parseTuf('targets', Buffer.from(text)).ok).toBe(false);
    }
    expect(parseTuf('targets', Buffer.from([0xff, 0xfe])).ok).toBe(false);
  });
  test('with two signatures of one key id is refused', () => {
    expect(parseTuf('targets', Buffer.from(signTuf(targets(), [signer, signer]))).ok).toBe(false);
  });
});

test('one key under two ids counts once', () => {
  const rsa = rsaSigner();
  const key = { ...rsa.key, keyval: { public: rsa.key.keyval.public.trim() } };
  const twin = { ...rsa, key, keyId: keyIdOf(key) };
  const parsed = parseTuf('targets', Buffer.from(signTuf(targets(), [rsa, twin, signer])));
  if (!parsed.ok) throw new Error(parsed.why);
  expect(signersOf(parsed.document, [rsa, twin])).toEqual([rsa.keyId]);
  expect(signersOf(parsed.document, [rsa, twin, signer]).length).toBe(2);
});

import { expect, test } from 'vitest';
import { Id, manifestPath } from '#shared/ids.ts';
import { addManifests, checkDelegation, isPathOf, MANIFESTS_MAX } from '#shared/trust/delegation.ts';
import type { Signer } from '#shared/trust/signers.ts';
import { signTuf } from '#shared/trust/tuf.ts';
import { COMPATIBLE, DAY_MS, NOW, newSigner, PRODUCT, rsaSigner } from '#test/server/trust/throw-away.ts';

const ci = newSigner();
const second = rsaSigner();
const expires = NOW + 365 * DAY_MS;
const entry = (version: string, content = version) => ({
  path: manifestPath(PRODUCT, version, COMPATIBLE),
  bytes: Buffer.from(content),
});
const add = (document: string | null, versions: string[], signer: Signer = ci): string =>
  addManifests({
    document,
    product: PRODUCT,
    manifests: versions.map((v) => entry(v)),
    signer,
    expires,
    trusted: [ci.key],
  });
const check = (document: string, previous: string | null, versionExpected: number, keys = [ci.key, second.key]) =>
  checkDelegation({ document, product: PRODUCT, keys, versionExpected, now: NOW, previous });

type Signed = { version: number; targets: Record<string, { length: number; custom: { added: number } }> } & Parameters<
  typeof signTuf
>[0];
/** Changes a document and signs it properly. */
const tampered = (document: string, change: (signed: Signed) => void): string => {
  const { signed }: { signed: Signed } = JSON.parse(document);
  change(signed);
  return signTuf(signed, [ci]);
};

test('what CI adds, the server accepts, and both see the same targets', () => {
  const first = add(null, ['1.0.0']);
  const second_ = add(first, ['1.1.0', '1.2.0']);
  expect(check(first, null, 1)).toMatchObject({ ok: true, value: { version: 1, keyIds: [ci.keyId] } });
  const checked = check(second_, first, 2);
  if (!checked.ok) throw new Error(checked.detail);
  expect([...checked.value.targets.keys()]).toEqual(['1.0.0', '1.1.0', '1.2.0'].map((v) => entry(v).path));
  expect(checked.value.targets.get(entry('1.1.0').path)?.length).toBe(5);
});

test('a second CI key may go on where the first stopped', () => {
  const first = add(null, ['1.0.0']);
  const next = add(first, ['1.1.0'], second);
  expect(check(next, first, 2)).toMatchObject({ ok: true, value: { keyIds: [second.keyId] } });
});

test('CI does not add to metadata that a server made up', () => {
  const forged = addManifests({
    document: null,
    product: PRODUCT,
    manifests: [entry('6.6.6')],
    signer: newSigner(),
    expires,
  });
  expect(() => add(forged, ['1.0.0'])).toThrow('signed by none of the keys');
  expect(() => add('{}', ['1.0.0'])).toThrow('not good');
});

test('CI does not publish one path twice with different content', () => {
  const first = add(null, ['1.0.0']);
  expect(() =>
    addManifests({ document: first, product: PRODUCT, manifests: [entry('1.0.0', 'other')], signer: ci, expires }),
  ).toThrow('other content');
  expect(check(add(first, ['1.0.0']), first, 2).ok).toBe(true);
});

test('the server refuses metadata that is not signed by a key of the product, changed after signing, or expired', () => {
  const first = add(null, ['1.0.0']);
  expect(check(first, null, 1, [second.key])).toMatchObject({ ok: false, code: 'signature-invalid' });
  const changed = first.replace('"length":5', '"length":6');
  expect(check(changed, null, 1)).toMatchObject({ ok: false, code: 'signature-invalid' });
  const old = tampered(first, (signed) => void (signed.expires = '2026-01-01T00:00:00Z'));
  expect(check(old, null, 1)).toMatchObject({ ok: false, code: 'signature-invalid' });
});

test('the server refuses anything but the next version', () => {
  const first = add(null, ['1.0.0']);
  expect(check(first, null, 2)).toMatchObject({ ok: false, code: 'metadata-version-conflict' });
});

test('the server refuses what is not targets metadata of the expected form', () => {
  const first = add(null, ['1.0.0']);
  const extra = tampered(first, (signed) => void Object.assign(Object.values(signed.targets)[0]!, { surprise: 1 }));
  for (const document of ['', '[]', '{"signed":{},"signatures":[]}', extra]) {
    expect(check(document, null, 1)).toMatchObject({ ok: false, code: 'invalid-request' });
  }
});

test('the server refuses paths of other products, paths that climb, and further delegations', () => {
  const first = add(null, ['1.0.0']);
  for (const path of [
    'fw/other/1.0.0/gw2.json',
    'fw/gateway/../gw2.json',
    'fw/gateway/1.0.0/../gw2.json',
    'fw/gateway/1.0.0/.json',
    'gateway',
  ]) {
    const document = tampered(first, (signed) => void (signed.targets[path] = Object.values(signed.targets)[0]!));
    expect(check(document, null, 1)).toMatchObject({ ok: false, code: 'path-not-delegated' });
  }
  const delegating = tampered(first, (signed) => void (signed['delegations'] = { keys: {}, roles: [] }));
  expect(check(delegating, null, 1)).toMatchObject({ ok: false, code: 'path-not-delegated' });
});

test('what was published may neither change nor vanish, nor pretend to be older than it is', () => {
  const first = add(null, ['1.0.0', '1.1.0']);
  const next = add(first, ['1.2.0']);
  const path = entry('1.0.0').path;
  for (const document of [
    tampered(next, (signed) => void delete signed.targets[path]),
    tampered(next, (signed) => void (signed.targets[path]!.length = 99)),
    tampered(next, (signed) => void (signed.targets[path]!.custom.added = 2)),
    tampered(next, (signed) => void (signed.targets[entry('1.2.0').path]!.custom.added = 1)),
  ]) {
    expect(check(document, first, 2)).toMatchObject({ ok: false, code: 'version-taken' });
  }
});

test('over the limit the oldest entries make room, and only they', () => {
  const many = (from: number, count: number) => Array.from({ length: count }, (_, index) => `1.0.${from + index}`);
  const one = add(null, many(1000, 5));
  const two = add(one, many(2000, MANIFESTS_MAX - 5));
  const three = add(two, many(3000, 3));
  expect(check(two, one, 2).ok).toBe(true);
  const checked = check(three, two, 3);
  if (!checked.ok) throw new Error(checked.detail);
  expect(checked.value.targets.size).toBe(MANIFESTS_MAX);
  const gone = many(1000, 5).filter((version) => !checked.value.targets.has(entry(version).path));
  expect(gone).toEqual(['1.0.1002', '1.0.1003', '1.0.1004']);

  const kept = JSON.parse(two).signed.targets[entry('1.0.1004').path];
  const full = tampered(three, (signed) => void (signed.targets[entry('1.0.1004').path] = kept));
  expect(check(full, two, 3)).toMatchObject({ ok: false, code: 'version-taken' });
  const wrongOne = tampered(three, (signed) => {
    signed.targets[entry('1.0.1004').path] = kept;
    delete signed.targets[entry('1.0.2000').path];
  });
  expect(check(wrongOne, two, 3)).toMatchObject({ ok: false, code: 'version-taken' });
});

test('a manifest path is exactly fw/product/version/compatible.json', () => {
  expect(isPathOf(PRODUCT, 'fw/gateway/1.0.0-rc.1+b5/gw2.json')).toBe(true);
  for (const path of [
    'fw/gateway/1.0/gw2.json',
    'fw/gateway/1.0.0/gw2.txt',
    'fw/gateway/1.0.0/gw2.json/x',
    'FW/gateway/1.0.0/gw2.json',
  ]) {
    expect(isPathOf(PRODUCT, path)).toBe(false);
  }
  expect(isPathOf(Id.parse('other'), 'fw/gateway/1.0.0/gw2.json')).toBe(false);
});

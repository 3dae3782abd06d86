import { assert, jsonValue, property } from 'fast-check';
import { expect, test } from 'vitest';
import { canonicalJson, canonicalTuf, sha256Hex } from '#shared/trust/canonical.ts';

const json = () =>
  jsonValue({ maxDepth: 4 }).map((value): unknown =>
    JSON.parse(
      JSON.stringify(value, (_, inner: unknown) => (typeof inner === 'number' ? Math.trunc(inner) + 0 : inner)),
    ),
  );

test('canonical JSON says the same, whatever the order of members was', () => {
  assert(
    property(json(), (value) => {
      const text = canonicalJson(value);
      expect(JSON.parse(text)).toEqual(value);
      expect(canonicalJson(JSON.parse(text))).toBe(text);
      expect(canonicalJson(reversed(value))).toBe(text);
    }),
  );
});

const reversed = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(reversed);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .reverse()
      .map(([name, member]) => [name, reversed(member)]),
  );
};

test('members are sorted, there are no spaces, and what people write stays JSON', () => {
  expect(canonicalJson({ b: [1, 'é\n"\\'], a: { d: null, c: true } })).toBe(
    '{"a":{"c":true,"d":null},"b":[1,"é\\n\\"\\\\"]}',
  );
});

test('fractions, undefined and functions have no canonical form', () => {
  for (const value of [
    0.5,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    undefined,
    () => 1,
    { a: undefined },
    [undefined],
    1n,
  ]) {
    expect(() => canonicalJson(value)).toThrow(TypeError);
  }
});

test('the form of TUF escapes only quotes and backslashes', () => {
  expect(canonicalTuf({ b: 'x\n"\\', a: 1 })).toBe('{"a":1,"b":"x\n\\"\\\\"}');
  expect(() => canonicalTuf({ a: 1.5 })).toThrow(TypeError);
});

test('digests are of the UTF-8', () => {
  expect(sha256Hex('é')).toBe(sha256Hex(Buffer.from('é')));
  expect(sha256Hex('')).toBe('e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855');
});

import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { Version } from '#shared/ids.ts';
import { compareVersions, versionFault } from '#shared/version-order.ts';

const identifier = fc.oneof(
  fc.bigInt({ min: 0n, max: 10n ** 20n }).map(String),
  fc
    .string({ unit: fc.constantFrom('a', 'B', 'z', '-', '0', '9'), minLength: 1, maxLength: 4 })
    .filter((one) => !/^0\d+$/.test(one)),
);
const number = fc.oneof(fc.nat(3).map(String), fc.bigInt({ min: 0n, max: 10n ** 21n }).map(String));
const version = fc
  .record({
    core: fc.tuple(number, number, number),
    pre: fc.array(identifier, { maxLength: 2 }),
    build: fc.array(identifier, { maxLength: 1 }),
  })
  .map(
    ({ core, pre, build }) =>
      `${core.join('.')}${pre.length === 0 ? '' : `-${pre.join('.')}`}${build.length === 0 ? '' : `+${build.join('.')}`}`,
  )
  .filter((one) => Version.safeParse(one).success);

test('versions are ordered as SemVer 2.0.0 says, numbers of any length included', () => {
  const ordered = [
    '0.9.9',
    '1.0.0-9007199254740992',
    '1.0.0-9007199254740993',
    '1.0.0-alpha',
    '1.0.0-alpha.1',
    '1.0.0-alpha.beta',
    '1.0.0-beta',
    '1.0.0-beta.2',
    '1.0.0-beta.11',
    '1.0.0-rc.1',
    '1.0.0',
    '1.0.0+1',
    '1.0.0+a',
    '1.0.1',
    '1.0.9',
    '1.0.10',
    '1.0.1796104056008365075',
    '1.0.1796104056008365076',
    '1.1.0',
    '2.0.0-x-y-z.--',
    '99999999999999999999.0.0',
  ];
  for (const [index, one] of ordered.entries())
    for (const [place, other] of ordered.entries())
      expect(Math.sign(compareVersions(one, other)), `${one} ${other}`).toBe(Math.sign(index - place));
});

test('every two versions have an order, it is a total one, and only equal texts are equal', () => {
  fc.assert(
    fc.property(version, version, version, (a, b, c) => {
      expect(Math.sign(compareVersions(a, b))).toBe(-Math.sign(compareVersions(b, a)) + 0);
      expect(compareVersions(a, b) === 0).toBe(a === b);
      const [low, middle, high] = [a, b, c].sort(compareVersions);
      expect(compareVersions(low!, middle!) <= 0 && compareVersions(middle!, high!) <= 0).toBe(true);
      expect(compareVersions(low!, high!)).toBeLessThanOrEqual(0);
    }),
  );
});

test.each(['1.0.1796104056008365075', '99999999999999999999.0.0', '1.0.0-rc.9007199254740992'])(
  '%s is a semantic version that no new release should have',
  (one) => {
    expect(Version.safeParse(one).success).toBe(true);
    expect(versionFault(one)).toMatch(/is too large/);
  },
);
test.each([
  '1.4.0',
  '1.0.9007199254740991',
  '1.0.0-20261201',
  '1.0.0+1796104056008365075',
  '1.0.0-a99999999999999999999',
])('%s is fit for a new release', (one) => expect(versionFault(one)).toBeUndefined());

/**
 * The order of semantic versions (https://semver.org/#spec-item-11), for numbers of any length: nothing is read as a
 * double.
 */

/**
 * What other tools that compare versions hold, such as npm's `semver`: larger numbers are the same to them, or an
 * error.
 */
const NUMBER_MAX = BigInt(Number.MAX_SAFE_INTEGER);

type Parts = { core: string[]; prerelease: string[]; build: string[] };

const partsOf = (version: string): Parts => {
  const [whole, build] = split(version, '+');
  const [core, prerelease] = split(whole, '-');
  return { core: core.split('.'), prerelease: identifiers(prerelease), build: identifiers(build) };
};
const split = (text: string, at: string): [string, string] => {
  const place = text.indexOf(at);
  return place === -1 ? [text, ''] : [text.slice(0, place), text.slice(place + 1)];
};
const identifiers = (text: string): string[] => (text === '' ? [] : text.split('.'));
const isNumeric = (identifier: string): boolean => /^\d+$/.test(identifier);

/**
 * Below 0, 0 or above 0. Both must be of the form that `Version` allows. Precedence decides; where it is equal, the
 * build metadata does by the same rules, so that only equal texts are equal.
 */
export const compareVersions = (one: string, other: string): number => {
  const [a, b] = [partsOf(one), partsOf(other)];
  // A prerelease comes before its release; builds after it.
  const released = Number(a.prerelease.length === 0) - Number(b.prerelease.length === 0);
  return (
    compareLists(a.core, b.core) ||
    released ||
    compareLists(a.prerelease, b.prerelease) ||
    compareLists(a.build, b.build) ||
    compareTexts(one, other)
  );
};

const compareLists = (a: string[], b: string[]): number => {
  for (const [index, identifier] of a.entries()) {
    const other = b[index];
    if (other === undefined) return 1;
    const order = compareIdentifiers(identifier, other);
    if (order !== 0) return order;
  }
  return a.length - b.length;
};

/** Numeric identifiers come before the others, which are in ASCII order. */
const compareIdentifiers = (a: string, b: string): number => {
  const [numeric, otherNumeric] = [isNumeric(a), isNumeric(b)];
  if (numeric !== otherNumeric) return numeric ? -1 : 1;
  if (!numeric) return compareTexts(a, b);
  const [x, y] = [BigInt(a), BigInt(b)];
  return x < y ? -1 : Number(x > y);
};
const compareTexts = (a: string, b: string): number => (a < b ? -1 : Number(a > b));

/** Why a version should not be given to a new release, though it is a semantic version; undefined when it may. */
export const versionFault = (version: string): string | undefined => {
  const { core, prerelease } = partsOf(version);
  const large = [...core, ...prerelease].find((one) => isNumeric(one) && BigInt(one) > NUMBER_MAX);
  return large === undefined
    ? undefined
    : `the number ${large} in the version ${version} is too large: most tools compare numbers only up to ${NUMBER_MAX}; ` +
        'use a smaller one, such as seconds instead of nanoseconds, or put it behind a "+"';
};

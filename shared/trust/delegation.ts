/**
 * The metadata of the `ci-<product>` role: CI adds the manifests of a release and signs (`addManifests`), the server
 * checks what came (`checkDelegation`). Both apply one rule to what is listed, so it is checked by doing it again.
 *
 * A role stays small: it lists the newest `MANIFESTS_MAX` manifests. Each entry says in `custom.added` with which
 * version of the metadata it came, and what is over the limit goes, oldest first. Nothing else may ever change or
 * vanish.
 */
import { z } from 'zod';
import { type Id, Id as IdSchema, manifestPath, Sha256, Version } from '../ids.ts';
import { MANIFEST_BYTES_MAX } from '../manifest.ts';
import { accept, type Result, refuse } from '../problems.ts';
import { canonicalTuf, sha256Hex } from './canonical.ts';
import { keyIdOf, type PublicKey } from './keys.ts';
import type { Signer } from './signers.ts';
import { parseTuf, signersOf, signTuf, TUF_SPEC_VERSION, type TufDocument, tufTime } from './tuf.ts';

/** Below `TARGETS_MAX`, so that a publication of many bundles always fits. */
export const MANIFESTS_MAX = 450;

/** The role that may sign for a product, and the only paths that it may sign for. */
export const roleOfProduct = (product: Id): string => `ci-${product}`;
export const pathPatternOfProduct = (product: Id): string => `fw/${product}/*/*`;

const Entry = z.strictObject({
  length: z.number().int().min(1).max(MANIFEST_BYTES_MAX),
  hashes: z.strictObject({ sha256: Sha256 }),
  custom: z.strictObject({ added: z.number().int().min(1) }),
});
type Entry = z.infer<typeof Entry>;

/** The newest that fit; of those that came together, the first by path. */
const newest = (entries: Map<string, Entry>): Map<string, Entry> =>
  new Map(
    [...entries]
      .sort(([a, one], [b, other]) => other.custom.added - one.custom.added || (a < b ? -1 : 1))
      .slice(0, MANIFESTS_MAX)
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  );

/**
 * The next version of the role's metadata, as JSON text: `document` (null before the first publication) plus the
 * manifests. `expires` is in milliseconds. CI must not sign what a server makes up, so it builds on `document` only
 * when that is signed by the signer's own key or one in `trusted` (the product's other CI keys, known to the caller
 * from elsewhere than the server's answer). Throws when it is not, or when a path is there already with another digest.
 */
export const addManifests = (input: {
  document: string | null;
  product: Id;
  manifests: { path: string; bytes: Uint8Array }[];
  signer: Signer;
  expires: number;
  trusted?: PublicKey[];
}): string => {
  const previous = input.document === null ? null : readRole(input.document, input.product);
  if (previous !== null && !previous.ok) throw new Error(`the metadata to build on is not good: ${previous.detail}`);
  const ours = [input.signer.key, ...(input.trusted ?? [])].map((key) => ({ keyId: keyIdOf(key), key }));
  if (previous !== null && signersOf(previous.value.document, ours).length === 0) {
    throw new Error('the metadata to build on is signed by none of the keys that are trusted here: not adding to it');
  }
  const version = (previous?.value.document.signed.version ?? 0) + 1;
  const entries = new Map(previous?.value.entries);
  for (const { path, bytes } of input.manifests) {
    const sha256 = sha256Hex(bytes);
    const known = entries.get(path);
    if (known !== undefined && known.hashes.sha256 !== sha256)
      throw new Error(`${path} is published with other content`);
    if (known === undefined)
      entries.set(path, { length: bytes.length, hashes: { sha256 }, custom: { added: version } });
  }
  return signTuf(
    {
      _type: 'targets',
      spec_version: TUF_SPEC_VERSION,
      version,
      expires: tufTime(input.expires),
      targets: Object.fromEntries(newest(entries)),
    },
    [input.signer],
  );
};

/**
 * Whether a document is the next version of the product's metadata: signed by one of `keys`, fresh, listing only paths
 * of the product, and with the entries of `previous` (a document accepted before) unchanged but for those that the
 * limit pushes out. Refusals: `invalid-request` (not such metadata), `signature-invalid`, `metadata-version-conflict`,
 * `path-not-delegated`, `version-taken` (an entry changed or vanished).
 */
export const checkDelegation = (input: {
  document: string;
  product: Id;
  keys: PublicKey[];
  versionExpected: number;
  now: number;
  previous: string | null;
}): Result<{ version: number; targets: Map<string, { sha256: Sha256; length: number }>; keyIds: Sha256[] }> => {
  const role = readRole(input.document, input.product);
  if (!role.ok) return role;
  const { document, entries } = role.value;
  const { version, expires } = document.signed;
  const keyIds = signersOf(
    document,
    input.keys.map((key) => ({ keyId: keyIdOf(key), key })),
  );
  if (keyIds.length === 0) {
    return refuse('signature-invalid', `no key that may sign for ${input.product} signed the metadata`);
  }
  if (Date.parse(expires) <= input.now) return refuse('signature-invalid', `the metadata expired at ${expires}`);
  if (version !== input.versionExpected) {
    return refuse('metadata-version-conflict', `expected version ${input.versionExpected}, got ${version}`);
  }
  const previous = input.previous === null ? null : readRole(input.previous, input.product);
  if (previous !== null && !previous.ok)
    throw new Error(`the accepted metadata of ${input.product} is not good: ${previous.detail}`);
  const wrong = differences(previous?.value.entries ?? new Map(), entries, version);
  if (wrong !== undefined) return refuse('version-taken', wrong);
  const targets = new Map([...entries].map(([path, { hashes, length }]) => [path, { sha256: hashes.sha256, length }]));
  return accept({ version, targets, keyIds });
};

/**
 * Only entries that came with this version are new, and together with the old ones they give, by the rule, exactly what
 * is listed.
 */
const differences = (before: Map<string, Entry>, after: Map<string, Entry>, version: number): string | undefined => {
  const added = [...after].filter(([path]) => !before.has(path));
  const misdated = added.find(([, entry]) => entry.custom.added !== version);
  if (misdated !== undefined) return `${misdated[0]} is new, but says that it came with another version`;
  const expected = newest(new Map([...before, ...added]));
  for (const [path, entry] of expected) {
    const listed = after.get(path);
    if (listed === undefined) return `${path} vanished; what was published stays`;
    if (canonicalTuf(listed) !== canonicalTuf(entry)) return `${path} changed; what was published stays as it is`;
  }
  const kept = [...after.keys()].find((path) => !expected.has(path));
  return kept === undefined
    ? undefined
    : `${kept} should have made room: at most ${MANIFESTS_MAX} manifests are listed`;
};

const readRole = (
  text: string,
  product: Id,
): Result<{ document: TufDocument<'targets'>; entries: Map<string, Entry> }> => {
  const parsed = parseTuf('targets', Buffer.from(text));
  if (!parsed.ok) return refuse('invalid-request', `the metadata is not TUF targets metadata: ${parsed.why}`);
  const { signed } = parsed.document;
  if (signed.delegations !== undefined) return refuse('path-not-delegated', 'the role may not delegate further');
  const entries = new Map<string, Entry>();
  for (const [path, target] of Object.entries(signed.targets)) {
    if (!isPathOf(product, path)) return refuse('path-not-delegated', `${path} is not a path of ${product}`);
    const entry = Entry.safeParse(target.toJSON());
    if (!entry.success) return refuse('invalid-request', `the entry ${path} is not of the expected form`);
    entries.set(path, entry.data);
  }
  return accept({ document: parsed.document, entries });
};

/** `fw/<product>/<version>/<compatible>.json`, and nothing that merely looks like it: paths become file names. */
export const isPathOf = (product: Id, path: string): boolean => {
  const [, , version = '', file = ''] = path.split('/');
  const compatible = file.replace(/\.json$/, '');
  return (
    Version.safeParse(version).success &&
    IdSchema.safeParse(compatible).success &&
    path === manifestPath(product, version, compatible)
  );
};

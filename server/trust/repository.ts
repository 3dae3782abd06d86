/**
 * The TUF repository that the server keeps and serves: a folder with `metadata/` and `targets/`, consistent snapshots.
 *
 * Every change writes files under names that were never used before, and the timestamp last: a client follows what the
 * timestamp names, so a crash at any moment leaves the repository as it was before the change, with a few files that
 * nothing names. Opening starts from the timestamp on disk, and gives new files versions above all that lie around.
 */
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { readFileIfThere, syncFolder, writeFileDurably } from '#shared/durable.ts';
import { Id, type Sha256 } from '#shared/ids.ts';
import { oneAtATime } from '#shared/in-turn.ts';
import { LOG_ROLE } from '#shared/trust/audit-export.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { isPathOf, roleOfProduct } from '#shared/trust/delegation.ts';
import { keyIdOf, type PublicKey } from '#shared/trust/keys.ts';
import type { Signer } from '#shared/trust/signers.ts';
import { isSignedByRole, parseTuf, ROLES_MAX, signTuf, type TufDocument, tufTime } from '#shared/trust/tuf.ts';
import type { Keyring } from './keyring.ts';
import {
  DIRECTOR_ROLE,
  emptyTargets,
  firstRoot,
  firstTargets,
  LIFE_MS,
  type MetaEntry,
  metaEntry,
  snapshotOf,
  type TargetsSigned,
  timestampOf,
  withProduct,
} from './metadata.ts';
import { type MetadataFiles, openMetadataFiles } from './metadata-files.ts';
import { loadPublished, loadRoots, type Published } from './published.ts';

export type Repository = {
  /** The digest of `1.root.json`, which never changes: what devices and auditors pin. */
  rootSha256: Sha256;
  /** Whether `delegateProduct` would be possible: the targets key is here, or nothing has to be signed. */
  canDelegate(product: Id, keys: PublicKey[]): boolean;
  /**
   * Lets these keys, any one of them, sign for the product. The same keys again change nothing. Throws when the targets
   * key is offline.
   */
  delegateProduct(product: Id, keys: PublicKey[]): Promise<void>;
  /** Countersigns metadata of the product's CI: puts it under snapshot and timestamp. What is not newer is ignored. */
  publishDelegation(product: Id, version: number, document: string): Promise<void>;
  /** Keeps a manifest under its digest. No client finds it before metadata that lists it is published. */
  putManifest(path: string, bytes: Uint8Array): Promise<void>;
  /**
   * Signs again what is past half of its life, as far as the keys are here, and removes versions that no one asks for
   * any more.
   */
  refresh(): Promise<void>;
  /**
   * A file for HTTP; undefined when the name can't be one. `targets` names are
   * `fw/<product>/<version>/<sha256>.<compatible>.json`.
   */
  read(kind: 'metadata' | 'targets', name: string): Promise<Buffer | undefined>;
  targetsDocument(): Promise<string>;
  /** All root metadata, from version 1. */
  rootDocuments(): Promise<string[]>;
};

/** Old versions that stay for clients in the middle of a refresh. */
const VERSIONS_KEPT = 16;
/** The rest is for the roles that are not products. */
const PRODUCTS_MAX = ROLES_MAX - 20;

/**
 * Opens the folder, or makes the repository in it, and signs what needs it. Throws when the keyring is of another
 * repository.
 */
export const openRepository = async (options: {
  dir: string;
  keyring: Keyring;
  now: () => number;
}): Promise<Repository> => {
  const { dir, keyring, now } = options;
  const files = await openMetadataFiles(join(dir, 'metadata'));
  await mkdir(join(dir, 'targets'), { recursive: true });
  const roots = await loadRoots(files);
  const writer = { files, keyring, now, roots, published: await loadPublished(files) };
  await initialise(writer);
  await refresh(writer);
  const inTurn = oneAtATime();
  return {
    rootSha256: sha256Hex(roots[0]!),
    canDelegate: (product, keys) => keyring.targets !== null || isDelegated(writer, product, keys),
    delegateProduct: (product, keys) => inTurn(() => delegateProduct(writer, product, keys)),
    publishDelegation: (product, version, text) => inTurn(() => publishDelegation(writer, product, version, text)),
    putManifest: (path, bytes) => putManifest(join(dir, 'targets'), path, bytes),
    refresh: () => inTurn(() => refresh(writer)),
    read: (kind, name) => (kind === 'metadata' ? files.readNamed(name) : readTarget(join(dir, 'targets'), name)),
    targetsDocument: async () => currentTargets(writer).bytes.toString(),
    rootDocuments: async () => [...roots],
  };
};

/** What the functions below share: `published` is what the timestamp on disk names, and only `publish` sets it. */
type Writer = { files: MetadataFiles; keyring: Keyring; now: () => number; roots: string[]; published: Published };

/** The first start, or what a crash in the middle of it left to do. */
const initialise = async (writer: Writer): Promise<void> => {
  const { keyring, roots, files } = writer;
  if (roots.length === 0) {
    const keys = { ...keyring, root: needed(keyring, 'root'), targets: needed(keyring, 'targets') };
    const { root, targets, snapshot, timestamp } = keys;
    const signed = firstRoot(
      { root: root.key, targets: targets.key, snapshot: snapshot.key, timestamp: timestamp.key },
      { version: 1, expires: writer.now() + LIFE_MS.root },
    );
    const text = signTuf(signed, [root]);
    await files.write('root', 1, text);
    roots.push(text);
  }
  checkKeyring(currentRoot(writer), keyring);
  const changes: Change[] = [];
  if (!writer.published.roles.has('targets')) {
    const times = timesOf(writer, 'targets', LIFE_MS.targets);
    const signed = firstTargets({ director: keyring.director.key, log: keyring.log.key }, times);
    changes.push(change('targets', signTuf(signed, [needed(keyring, 'targets')])));
  }
  for (const role of [DIRECTOR_ROLE, LOG_ROLE] as const) {
    if (!writer.published.roles.has(role)) changes.push(signEmpty(writer, role));
  }
  if (changes.length > 0 || writer.published.timestamp === null) await publish(writer, changes);
  checkDelegated(currentTargets(writer), keyring);
};

const needed = (keyring: Keyring, role: 'root' | 'targets'): Signer => {
  const signer = keyring[role];
  if (signer === null) throw new Error(`the ${role} key is not on this server, and without it this can't be signed`);
  return signer;
};

const checkKeyring = (root: TufDocument<'root'>, keyring: Keyring): void => {
  for (const role of ['root', 'targets', 'snapshot', 'timestamp'] as const) {
    const signer = keyring[role];
    if (signer !== null && !root.signed.roles[role]?.keyIDs.includes(signer.keyId)) {
      throw new Error(
        `the ${role} key of the keyring is not the one that the root metadata names: is this the right data folder?`,
      );
    }
  }
};
const checkDelegated = (targets: TufDocument<'targets'>, keyring: Keyring): void => {
  for (const role of [DIRECTOR_ROLE, LOG_ROLE] as const) {
    if (!targets.signed.delegations?.roles?.[role]?.keyIDs.includes(keyring[role].keyId)) {
      throw new Error(`the ${role} key of the keyring is not the one that the targets metadata names`);
    }
  }
};

const currentRoot = (writer: Writer): TufDocument<'root'> => parsedOrThrow('root', writer.roots.at(-1)!);
const currentTargets = (writer: Writer): TufDocument<'targets'> =>
  parsedOrThrow('targets', writer.published.roles.get('targets')!.text);
const parsedOrThrow = <K extends 'root' | 'targets'>(kind: K, text: string): TufDocument<K> => {
  const parsed = parseTuf(kind, Buffer.from(text));
  if (!parsed.ok) throw new Error(`the ${kind} metadata of the repository is malformed: ${parsed.why}`);
  return parsed.document;
};

const timesOf = (writer: Writer, role: string, lifeMs: number) => ({
  version: writer.files.newest(role) + 1,
  expires: writer.now() + lifeMs,
});
const signEmpty = (writer: Writer, role: typeof DIRECTOR_ROLE | typeof LOG_ROLE): Change =>
  change(role, signTuf(emptyTargets(timesOf(writer, role, LIFE_MS.delegated)), [writer.keyring[role]]));

/** A new version of `targets` or of a role below it. */
type Change = { role: string; version: number; text: string; expires: number };
const change = (role: string, text: string): Change => {
  const { version, expires } = parsedOrThrow('targets', text).signed;
  return { role, version, text, expires: Date.parse(expires) };
};

/** Writes the changes, a snapshot that names them, and last the timestamp that names the snapshot. */
const publish = async (writer: Writer, changes: Change[]): Promise<void> => {
  const { files, keyring } = writer;
  for (const { role, version, text } of changes) await files.write(role, version, text);
  const roles = new Map([...writer.published.roles, ...changes.map((one) => [one.role, one] as const)]);
  const meta: Record<string, MetaEntry> = {};
  for (const [role, { version, text }] of roles) meta[`${role}.json`] = metaEntry(version, text);
  const times = { version: clockedVersion(writer, files.newest('snapshot')), expires: writer.now() + LIFE_MS.snapshot };
  const text = signTuf(snapshotOf(meta, times), [keyring.snapshot]);
  await files.write('snapshot', times.version, text);
  await stamp(writer, roles, { ...times, text });
};

const stamp = async (
  writer: Writer,
  roles: Published['roles'],
  snapshot: NonNullable<Published['snapshot']>,
): Promise<void> => {
  const version = clockedVersion(writer, writer.published.timestamp?.version ?? 0);
  const expires = writer.now() + LIFE_MS.timestamp;
  const signed = timestampOf(metaEntry(snapshot.version, snapshot.text), { version, expires });
  await writer.files.writeTimestamp(signTuf(signed, [writer.keyring.timestamp]));
  writer.published = { roles, snapshot, timestamp: { version, expires } };
};

/**
 * Versions of snapshot and timestamp are at least the seconds since 1970: a server that was restored from a backup does
 * not repeat versions that devices have seen already, which they would refuse as a rollback.
 */
const clockedVersion = (writer: Writer, last: number): number => Math.max(last + 1, Math.floor(writer.now() / 1000));

/** To exactly these keys. */
const isDelegated = (writer: Writer, product: Id, keys: PublicKey[]): boolean => {
  const name = roleOfProduct(product);
  const roles = currentTargets(writer).signed.delegations?.roles ?? {};
  const known = Object.hasOwn(roles, name) ? roles[name]?.keyIDs : undefined;
  const wanted = new Set<string>(keys.map(keyIdOf));
  return known !== undefined && known.length === wanted.size && known.every((keyId) => wanted.has(keyId));
};

const delegateProduct = async (writer: Writer, product: Id, keys: PublicKey[]): Promise<void> => {
  const name = roleOfProduct(product);
  const targets = currentTargets(writer);
  const roles = targets.signed.delegations?.roles ?? {};
  if (isDelegated(writer, product, keys)) return;
  if (!Object.hasOwn(roles, name) && Object.keys(roles).length >= PRODUCTS_MAX) {
    throw new Error(`the targets role can't delegate to more than ${PRODUCTS_MAX} products`);
  }
  const signed: TargetsSigned = withProduct(JSON.parse(targets.bytes.toString()).signed, product, keys);
  await publish(writer, [signTargets(writer, signed)]);
};

const signTargets = (writer: Writer, signed: TargetsSigned): Change => {
  const { version, expires } = timesOf(writer, 'targets', LIFE_MS.targets);
  const renewed = { ...signed, version, expires: tufTime(expires) };
  return change('targets', signTuf(renewed, [needed(writer.keyring, 'targets')]));
};

const publishDelegation = async (writer: Writer, product: Id, version: number, text: string): Promise<void> => {
  const role = roleOfProduct(product);
  if (version <= (writer.published.roles.get(role)?.version ?? 0)) return;
  const document = parsedOrThrow('targets', text);
  // Checked when it was accepted. Once more, because a document that clients refuse would shut them off from the
  // product.
  if (document.signed.version !== version || !isSignedByRole(document, currentTargets(writer).signed, role)) {
    throw new Error(`version ${version} of ${role} is not signed by a key that targets delegates to`);
  }
  await publish(writer, [change(role, text)]);
};

const refresh = async (writer: Writer): Promise<void> => {
  const { keyring, roots, files } = writer;
  const now = writer.now();
  const isDue = (expires: number, lifeMs: number): boolean => expires - now < lifeMs / 2;
  const root = currentRoot(writer).signed;
  if (keyring.root !== null && isDue(Date.parse(root.expires), LIFE_MS.root)) {
    const signed = JSON.parse(roots.at(-1)!).signed;
    const renewed = { ...signed, version: root.version + 1, expires: tufTime(now + LIFE_MS.root) };
    const text = signTuf(renewed, [keyring.root]);
    await files.write('root', root.version + 1, text);
    roots.push(text);
  }
  const changes: Change[] = [];
  const targets = writer.published.roles.get('targets')!;
  if (keyring.targets !== null && isDue(targets.expires, LIFE_MS.targets)) {
    changes.push(signTargets(writer, JSON.parse(targets.text).signed));
  }
  for (const role of [DIRECTOR_ROLE, LOG_ROLE] as const) {
    if (isDue(writer.published.roles.get(role)!.expires, LIFE_MS.delegated)) changes.push(signEmpty(writer, role));
  }
  const { snapshot, timestamp, roles } = writer.published;
  if (changes.length > 0 || snapshot === null || isDue(snapshot.expires, LIFE_MS.snapshot))
    await publish(writer, changes);
  else if (timestamp === null || isDue(timestamp.expires, LIFE_MS.timestamp)) await stamp(writer, roles, snapshot);
  const current = new Map([...writer.published.roles].map(([role, { version }]) => [role, version]));
  await files.prune(VERSIONS_KEPT, current.set('snapshot', writer.published.snapshot?.version ?? 0));
};

const putManifest = async (dir: string, path: string, bytes: Uint8Array): Promise<void> => {
  const product = Id.safeParse(path.split('/')[1]);
  if (!product.success || !isPathOf(product.data, path)) throw new Error(`${path} is not the path of a manifest`);
  const [folder, name] = [dirname(path), path.slice(path.lastIndexOf('/') + 1)];
  await mkdir(join(dir, folder), { recursive: true });
  await writeFileDurably(join(dir, folder, `${sha256Hex(bytes)}.${name}`), bytes);
  // The folders on the way may be new too.
  for (let parent = dirname(folder); parent !== '.'; parent = dirname(parent)) await syncFolder(join(dir, parent));
  await syncFolder(dir);
};

const readTarget = async (dir: string, name: string): Promise<Buffer | undefined> => {
  const [, folder = '', digest = '', file = ''] = /^(.+)\/([0-9a-f]{64})\.([^/]+)$/.exec(name) ?? [];
  const product = Id.safeParse(folder.split('/')[1]);
  if (!product.success || !isPathOf(product.data, `${folder}/${file}`)) return undefined;
  return readFileIfThere(join(dir, folder, `${digest}.${file}`));
};

/** The signed parts of the repository's metadata, as JSON, and how long each lives. Nothing here reads or writes. */
import type { Id } from '#shared/ids.ts';
import { LOG_ROLE } from '#shared/trust/audit-export.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { pathPatternOfProduct, roleOfProduct } from '#shared/trust/delegation.ts';
import { keyIdOf, type PublicKey } from '#shared/trust/keys.ts';
import { TUF_SPEC_VERSION, type TufSigned, tufTime } from '#shared/trust/tuf.ts';

const DAY_MS = 86_400_000;
/** Metadata is signed again when half of this is over, so that a server may be down for the other half. */
export const LIFE_MS = {
  root: 365 * DAY_MS,
  targets: 365 * DAY_MS,
  delegated: 365 * DAY_MS,
  snapshot: 7 * DAY_MS,
  timestamp: DAY_MS,
} as const;

export const DIRECTOR_ROLE = 'director';

type Times = { version: number; expires: number };
const common = <K extends TufSigned['_type']>(kind: K, { version, expires }: Times) => ({
  _type: kind,
  spec_version: TUF_SPEC_VERSION,
  version,
  expires: tufTime(expires),
});

const byId = (keys: PublicKey[]): Record<string, PublicKey> =>
  Object.fromEntries(keys.map((key) => [keyIdOf(key), key]));
const anyOf = (keys: PublicKey[]) => ({ keyids: [...new Set(keys.map(keyIdOf))], threshold: 1 });

export type TopLevelKeys = Record<'root' | 'targets' | 'snapshot' | 'timestamp', PublicKey>;
export const firstRoot = (keys: TopLevelKeys, times: Times): TufSigned => ({
  ...common('root', times),
  consistent_snapshot: true,
  keys: byId(Object.values(keys)),
  roles: Object.fromEntries(Object.entries(keys).map(([role, key]) => [role, anyOf([key])])),
});

type DelegatedRole = {
  name: string;
  keyids: string[];
  threshold: number;
  paths: string[];
  terminating: boolean;
};
export type TargetsSigned = TufSigned & { delegations: { keys: Record<string, PublicKey>; roles: DelegatedRole[] } };

/**
 * The director and the log sign no files: their roles are there so that their keys can be found, and withdrawn, like
 * any other. Their paths are their own names, of which there is no file.
 */
export const firstTargets = (keys: { director: PublicKey; log: PublicKey }, times: Times): TargetsSigned => ({
  ...common('targets', times),
  targets: {},
  delegations: {
    keys: byId([keys.director, keys.log]),
    roles: [
      { name: DIRECTOR_ROLE, ...anyOf([keys.director]), paths: [DIRECTOR_ROLE], terminating: true },
      { name: LOG_ROLE, ...anyOf([keys.log]), paths: [LOG_ROLE], terminating: true },
    ],
  },
});

/**
 * Targets with these keys, any one of them, for the product. Paths are literal up to the product, and the role is
 * terminating, so that a client that looks for one product's files never needs another product's metadata.
 */
export const withProduct = (targets: TargetsSigned, product: Id, keys: PublicKey[]): TargetsSigned => {
  const name = roleOfProduct(product);
  const role = { name, ...anyOf(keys), paths: [pathPatternOfProduct(product)], terminating: true };
  const known = targets.delegations.roles.some((other) => other.name === name);
  const roles = known
    ? targets.delegations.roles.map((other) => (other.name === name ? role : other))
    : [...targets.delegations.roles, role];
  const used = new Set(roles.flatMap(({ keyids }) => keyids));
  const all = Object.entries({ ...targets.delegations.keys, ...byId(keys) });
  return { ...targets, delegations: { keys: Object.fromEntries(all.filter(([id]) => used.has(id))), roles } };
};

/** The role of the director or the log: empty, since clients expect each delegated role in the snapshot. */
export const emptyTargets = (times: Times): TufSigned => ({ ...common('targets', times), targets: {} });

export type MetaEntry = { version: number; length: number; hashes: { sha256: string } };
export const metaEntry = (version: number, text: string): MetaEntry => ({
  version,
  length: Buffer.byteLength(text),
  hashes: { sha256: sha256Hex(text) },
});

export const snapshotOf = (meta: Record<string, MetaEntry>, times: Times): TufSigned => ({
  ...common('snapshot', times),
  meta,
});

export const timestampOf = (snapshot: MetaEntry, times: Times): TufSigned => ({
  ...common('timestamp', times),
  meta: { 'snapshot.json': snapshot },
});

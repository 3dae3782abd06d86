/**
 * TUF metadata (the TUF specification, https://theupdateframework.github.io/specification): parsed by `@tufjs/models`
 * within limits, and judged by our own counting of signatures. Server, device, CI and auditor all read it through here.
 */
import { type Key, Metadata, MetadataKind, Root, type Snapshot, Targets, type Timestamp } from '@tufjs/models';
import { z } from 'zod';
import { Sha256 } from '../ids.ts';
import { canonicalTuf, sha256Hex } from './canonical.ts';
import { PublicKey, publicKeyDer, verifySignature } from './keys.ts';
import type { Signer } from './signers.ts';

type TufKinds = { root: Root; timestamp: Timestamp; snapshot: Snapshot; targets: Targets };
export type TufKind = keyof TufKinds;
/** Parsed, its signatures not yet judged. `signedBytes` is what they are over, `bytes` what came. */
export type TufDocument<K extends TufKind> = {
  signed: TufKinds[K];
  signatures: Map<string, string>;
  signedBytes: Buffer;
  bytes: Buffer;
};

export const TUF_SPEC_VERSION = '1.0.31';
/** No metadata may be longer, wherever it comes from. */
export const TUF_BYTES_MAX: Record<TufKind, number> = {
  root: 65_536,
  timestamp: 16_384,
  snapshot: 1_000_000,
  targets: 1_000_000,
};
/** `@tufjs/models` takes quadratic time in these: 60 ms for 1,000 entries, 13 s for 10,000. */
export const TARGETS_MAX = 500;
export const ROLES_MAX = 1000;

/**
 * Names of delegated roles and of metadata: they come from the signer, and stand in file names and addresses. No dot,
 * no slash, not longer than a file system takes. Products' roles are `ci-` and an `Id`.
 */
export const RoleName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$/, 'the name of a role must be 1 to 80 letters, digits, "-" or "_"');
const MetaName = z
  .string()
  .refine(
    (name) => name.endsWith('.json') && RoleName.safeParse(name.slice(0, -5)).success,
    'metadata must be named after its role: 1 to 80 letters, digits, "-" or "_", and ".json"',
  );

const fewer = (max: number) => (all: object) => Object.keys(all).length <= max;
const Keys = z.record(Sha256, z.looseObject({})).refine(fewer(2 * ROLES_MAX), 'too many keys');
/** What `@tufjs/models` does not look at. Its own parser does the rest. */
const Envelope = z.looseObject({
  signatures: z.array(z.looseObject({ keyid: Sha256, sig: z.string().max(2048) })).max(32),
  signed: z.looseObject({
    version: z.number().int().min(1),
    expires: z.string().regex(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/),
    keys: Keys.optional(),
    targets: z.record(z.string().max(512), z.unknown()).refine(fewer(TARGETS_MAX), 'too many targets').optional(),
    meta: z.record(MetaName, z.unknown()).refine(fewer(ROLES_MAX), 'too many roles').optional(),
    delegations: z
      .looseObject({
        keys: Keys,
        roles: z.array(z.looseObject({ name: RoleName })).max(ROLES_MAX),
        succinct_roles: z.never('succinct delegations are not understood here').optional(),
      })
      .optional(),
  }),
});

export type TufParsed<K extends TufKind> = { ok: true; document: TufDocument<K> } | { ok: false; why: string };

/**
 * Parses metadata of one kind. Key ids are recomputed: an id that is not its key's is a malformed document (section
 * 4.2).
 */
export const parseTuf = <K extends TufKind>(kind: K, bytes: Uint8Array): TufParsed<K> => {
  if (bytes.length > TUF_BYTES_MAX[kind]) return { ok: false, why: `longer than ${TUF_BYTES_MAX[kind]} bytes` };
  try {
    const json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
    const envelope = Envelope.safeParse(json);
    if (!envelope.success) return { ok: false, why: envelope.error.issues[0]?.message ?? 'malformed' };
    const { keys, delegations } = envelope.data.signed;
    for (const [id, key] of Object.entries({ ...keys, ...delegations?.keys })) {
      if (sha256Hex(canonicalTuf(key)) !== id) return { ok: false, why: `the key id ${id} is not that of its key` };
    }
    const metadata = PARSERS[kind](json);
    const signatures = new Map(Object.values(metadata.signatures).map(({ keyID, sig }) => [keyID, sig]));
    const signedBytes = Buffer.from(canonicalTuf(json.signed));
    return { ok: true, document: { signed: metadata.signed, signatures, signedBytes, bytes: Buffer.from(bytes) } };
  } catch (error) {
    return { ok: false, why: error instanceof Error ? error.message : String(error) };
  }
};

type Json = Parameters<typeof Metadata.fromJSON>[1];
const PARSERS: { [K in TufKind]: (json: Json) => Metadata<TufKinds[K]> } = {
  root: (json) => Metadata.fromJSON(MetadataKind.Root, json),
  timestamp: (json) => Metadata.fromJSON(MetadataKind.Timestamp, json),
  snapshot: (json) => Metadata.fromJSON(MetadataKind.Snapshot, json),
  targets: (json) => Metadata.fromJSON(MetadataKind.Targets, json),
};

/**
 * Which of these keys signed the document, each key once, whatever ids it goes by: `@tufjs/models` 5.0.2 counts ids.
 */
export const signersOf = (
  document: Pick<TufDocument<TufKind>, 'signatures' | 'signedBytes'>,
  keys: Iterable<{ keyId: string; key: PublicKey }>,
): Sha256[] => {
  const byDer = new Map<string, Sha256>();
  for (const { keyId, key } of keys) {
    const sig = document.signatures.get(keyId);
    if (sig === undefined || !verifySignature(key, document.signedBytes, sig)) continue;
    const der = publicKeyDer(key);
    if (!byDer.has(der)) byDer.set(der, Sha256.parse(keyId));
  }
  return [...byDer.values()];
};

/** The keys and the threshold that `parent` gives a role; undefined when it knows no such role. */
export const delegationOf = (
  parent: Root | Targets,
  role: string,
): { keys: { keyId: string; key: PublicKey }[]; threshold: number } | undefined => {
  const {
    keys,
    roles,
  }: { keys: Record<string, Key>; roles?: Record<string, { keyIDs: string[]; threshold: number }> } =
    parent instanceof Root ? parent : (parent.delegations ?? { keys: {} });
  const delegated = roles !== undefined && Object.hasOwn(roles, role) ? roles[role] : undefined;
  if (delegated === undefined) return undefined;
  // A key of a kind that is not used here counts for nothing, but does not make the document bad.
  const known = delegated.keyIDs.flatMap((keyId) => {
    const key = PublicKey.safeParse(Object.hasOwn(keys, keyId) ? keys[keyId]?.toJSON() : undefined);
    return key.success ? [{ keyId, key: key.data }] : [];
  });
  return { keys: known, threshold: delegated.threshold };
};

/** Whether enough distinct keys of the role signed the document (sections 5.3.4, 5.4.2, 5.5.3, 5.6.3). */
export const isSignedByRole = (
  document: Pick<TufDocument<TufKind>, 'signatures' | 'signedBytes'>,
  parent: Root | Targets,
  role: string,
): boolean => {
  const delegation = delegationOf(parent, role);
  return delegation !== undefined && signersOf(document, delegation.keys).length >= delegation.threshold;
};

/** TUF's time: seconds, UTC. */
export const tufTime = (millis: number): string => new Date(millis).toISOString().replace(/\.\d{3}Z$/, 'Z');

/** The part of metadata that is signed, as JSON. */
export type TufSigned = {
  _type: TufKind;
  spec_version: string;
  version: number;
  expires: string;
  [member: string]: unknown;
};

/** The JSON text of signed metadata. `signed` is the whole signed part; every signer signs its canonical form. */
export const signTuf = (signed: TufSigned, signers: Signer[]): string => {
  const bytes = Buffer.from(canonicalTuf(signed));
  const signatures = signers.map((signer) => ({ keyid: signer.keyId, sig: signer.sign(bytes) }));
  return JSON.stringify({ signatures, signed });
};

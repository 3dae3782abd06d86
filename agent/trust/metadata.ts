/**
 * The TUF client workflow (specification, section 5), with an error code for every step. What does not verify is never
 * kept; what was kept is verified again each time. When nothing changed, a refresh costs one request.
 */
import type { DeviceErrorCode } from '#shared/deployment.ts';
import { TUF_METADATA } from '#shared/device-api.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { isSignedByRole, parseTuf, TUF_BYTES_MAX, type TufDocument, type TufKind } from '#shared/trust/tuf.ts';
import type { TrustFiles } from './trust-files.ts';
import { bad, fetchBounded, good, type TrustFetch, type TrustResult, tryFetch } from './trust-result.ts';

/** What a refresh works with. `time` is the trusted time of this refresh. */
export type Refreshing = { files: TrustFiles; fetch: TrustFetch; time: number };
export type Verified = {
  root: TufDocument<'root'>;
  snapshot: TufDocument<'snapshot'>;
  targets: TufDocument<'targets'>;
};

const ROTATIONS_MAX = 256;

type Codes = Record<'unavailable' | 'format' | 'mismatch' | 'signature' | 'expired', DeviceErrorCode>;
const TARGETS: Codes = {
  unavailable: 'TARGETS_UNAVAILABLE',
  format: 'TARGETS_FORMAT',
  mismatch: 'TARGETS_MISMATCH',
  signature: 'TARGETS_SIGNATURE',
  expired: 'TARGETS_EXPIRED',
};
const SNAPSHOT: Codes = {
  unavailable: 'SNAPSHOT_UNAVAILABLE',
  format: 'SNAPSHOT_FORMAT',
  mismatch: 'SNAPSHOT_MISMATCH',
  signature: 'SNAPSHOT_SIGNATURE',
  expired: 'SNAPSHOT_EXPIRED',
};
const DELEGATED: Codes = {
  unavailable: 'DELEGATED_UNAVAILABLE',
  format: 'DELEGATED_FORMAT',
  mismatch: 'DELEGATED_MISMATCH',
  signature: 'DELEGATED_SIGNATURE',
  expired: 'DELEGATED_EXPIRED',
};

/** `probeRoot`: look for newer root metadata even if nothing else has changed. */
export const refreshMetadata = async (refresh: Refreshing, probeRoot: boolean): Promise<TrustResult<Verified>> => {
  const { files, fetch } = refresh;
  const local = await loadRoot(files);
  if (local === undefined) return bad('ROOT_FORMAT', 'there is no good root metadata on this device');
  // Asked for first, because an unchanged timestamp means that the root need not be asked for; judged after the root.
  const path = `${TUF_METADATA}timestamp.json`;
  const fetched = await fetchBounded(fetch, path, TUF_BYTES_MAX.timestamp, 'TIMESTAMP_UNAVAILABLE');
  const kept = await files.read('timestamp');
  const unchanged = fetched.ok && kept !== undefined && fetched.value.equals(kept);
  const root = unchanged && !probeRoot ? good(local) : await updateRoot(refresh, local);
  if (!root.ok) return root;
  if (isExpired(root.value, refresh.time)) return expired('ROOT_EXPIRED', root.value);
  if (!fetched.ok) return fetched;
  const timestamp = await updateTimestamp(refresh, root.value, fetched.value);
  if (!timestamp.ok) return timestamp;
  const snapshot = await updateSnapshot(refresh, root.value, timestamp.value);
  if (!snapshot.ok) return snapshot;
  const targets = await updateTargets(
    refresh,
    { role: 'targets', snapshot: snapshot.value, parent: root.value },
    TARGETS,
  );
  if (!targets.ok) return targets;
  return good({ root: root.value, snapshot: snapshot.value, targets: targets.value });
};

/** The newest root on the device; when it is damaged, the pinned one, from which the way up is walked again. */
export const loadRoot = async (files: TrustFiles): Promise<TufDocument<'root'> | undefined> => {
  for (const name of ['root', 'pinned-root'] as const) {
    const bytes = await files.read(name);
    const parsed = bytes === undefined ? undefined : parseTuf('root', bytes);
    if (parsed?.ok === true && isSignedByRole(parsed.document, parsed.document.signed, 'root')) return parsed.document;
  }
  return undefined;
};

/** Section 5.3: one version after the other, each signed as the one before it wants and as it wants itself. */
const updateRoot = async (
  refresh: Refreshing,
  local: TufDocument<'root'>,
): Promise<TrustResult<TufDocument<'root'>>> => {
  let root = local;
  for (let rotation = 0; rotation < ROTATIONS_MAX; rotation += 1) {
    const version = root.signed.version + 1;
    const answer = await tryFetch(refresh.fetch, `${TUF_METADATA}${version}.root.json`, TUF_BYTES_MAX.root);
    // No answer is as good as no newer root: what follows will fail or expire by itself.
    if (!answer.ok || answer.bytes === undefined) break;
    const parsed = parseTuf('root', answer.bytes);
    if (!parsed.ok) return bad('ROOT_FORMAT', `root ${version}: ${parsed.why}`);
    const next = parsed.document;
    if (!isSignedByRole(next, root.signed, 'root') || !isSignedByRole(next, next.signed, 'root')) {
      return bad('ROOT_SIGNATURE', `root ${version} is not signed by enough of the old and of the new root keys`);
    }
    if (next.signed.version !== version) {
      return bad('ROOT_ROLLBACK', `asked for root ${version}, got ${next.signed.version}`);
    }
    await refresh.files.write('root', next.bytes);
    root = next;
  }
  return good(root);
};

/** Section 5.4. */
const updateTimestamp = async (
  refresh: Refreshing,
  root: TufDocument<'root'>,
  bytes: Buffer,
): Promise<TrustResult<TufDocument<'timestamp'>>> => {
  const from = { parent: root, role: 'timestamp' };
  const next = readSigned('timestamp', bytes, from, { format: 'TIMESTAMP_FORMAT', signature: 'TIMESTAMP_SIGNATURE' });
  if (!next.ok) return next;
  const kept = await loadKept(refresh.files, 'timestamp', root);
  if (kept !== undefined) {
    const [before, after] = [kept.signed, next.value.signed];
    if (after.version < before.version) {
      return bad('TIMESTAMP_ROLLBACK', `version ${after.version} after ${before.version}`);
    }
    if (after.version === before.version) {
      // 5.4.3.1: nothing new, whatever else it says.
      return isExpired(kept, refresh.time) ? expired('TIMESTAMP_EXPIRED', kept) : good(kept);
    }
    if (after.snapshotMeta.version < before.snapshotMeta.version) {
      const versions = `${after.snapshotMeta.version} after ${before.snapshotMeta.version}`;
      return bad('SNAPSHOT_ROLLBACK', `the timestamp names snapshot version ${versions}`);
    }
  }
  if (isExpired(next.value, refresh.time)) return expired('TIMESTAMP_EXPIRED', next.value);
  await refresh.files.write('timestamp', bytes);
  return next;
};

/** Section 5.5. */
const updateSnapshot = async (
  refresh: Refreshing,
  root: TufDocument<'root'>,
  timestamp: TufDocument<'timestamp'>,
): Promise<TrustResult<TufDocument<'snapshot'>>> => {
  const meta = timestamp.signed.snapshotMeta;
  const kept = await loadKept(refresh.files, 'snapshot', root);
  const isKept = kept !== undefined && matches(meta, kept.bytes);
  const bytes = isKept
    ? good(kept.bytes)
    : await fetchNamed(refresh.fetch, { role: 'snapshot', kind: 'snapshot', meta }, SNAPSHOT);
  if (!bytes.ok) return bytes;
  const next = readSigned('snapshot', bytes.value, { parent: root, role: 'snapshot' }, SNAPSHOT);
  if (!next.ok) return next;
  if (next.value.signed.version !== meta.version) {
    return bad(SNAPSHOT.mismatch, `the timestamp names version ${meta.version}, got ${next.value.signed.version}`);
  }
  for (const [name, before] of Object.entries(kept?.signed.meta ?? {})) {
    const after = metaOf(next.value, name);
    if (after === undefined) return bad('SNAPSHOT_ROLLBACK', `${name} vanished`);
    if (after.version < before.version) {
      return bad('SNAPSHOT_ROLLBACK', `${name} went from version ${before.version} to ${after.version}`);
    }
  }
  if (isExpired(next.value, refresh.time)) return expired(SNAPSHOT.expired, next.value);
  if (!isKept) await refresh.files.write('snapshot', bytes.value);
  return next;
};

/** The metadata of a role that targets delegates to. */
export const refreshDelegated = (
  refresh: Refreshing,
  { snapshot, targets }: Verified,
  role: string,
): Promise<TrustResult<TufDocument<'targets'>>> =>
  updateTargets(refresh, { role, snapshot, parent: targets }, DELEGATED);

/** Section 5.6, for targets and for the roles below it alike. */
const updateTargets = async (
  refresh: Refreshing,
  from: { role: string; snapshot: TufDocument<'snapshot'>; parent: TufDocument<'root'> | TufDocument<'targets'> },
  codes: Codes,
): Promise<TrustResult<TufDocument<'targets'>>> => {
  const { role } = from;
  const name = role === 'targets' ? role : { delegated: role };
  const meta = metaOf(from.snapshot, `${role}.json`);
  if (meta === undefined) return bad(codes.unavailable, `${role} has not been published yet`);
  const kept = await refresh.files.read(name);
  const isKept = kept !== undefined && matches(meta, kept);
  const bytes = isKept ? good(kept) : await fetchNamed(refresh.fetch, { role, kind: 'targets', meta }, codes);
  if (!bytes.ok) return bytes;
  const next = readSigned('targets', bytes.value, { parent: from.parent, role }, codes);
  if (!next.ok) return next;
  if (next.value.signed.version !== meta.version) {
    return bad(codes.mismatch, `${role}: the snapshot names version ${meta.version}, got ${next.value.signed.version}`);
  }
  if (isExpired(next.value, refresh.time)) return expired(codes.expired, next.value);
  if (!isKept) await refresh.files.write(name, bytes.value);
  return next;
};

type Meta = { version: number; length?: number | undefined; hashes?: Record<string, string> | undefined };
const metaOf = (snapshot: TufDocument<'snapshot'>, name: string): Meta | undefined =>
  Object.hasOwn(snapshot.signed.meta, name) ? snapshot.signed.meta[name] : undefined;

/** Length and digest, as far as they are named (5.5.2, 5.6.2). */
const matches = (meta: Meta, bytes: Buffer): boolean =>
  (meta.length === undefined || meta.length === bytes.length) &&
  Object.entries(meta.hashes ?? {}).every(([name, hash]) => name === 'sha256' && hash === sha256Hex(bytes));

/** Fetches the version that the document above names, no longer than it says. */
const fetchNamed = async (
  fetch: TrustFetch,
  named: { role: string; kind: TufKind; meta: Meta },
  codes: Pick<Codes, 'unavailable' | 'mismatch'>,
): Promise<TrustResult<Buffer>> => {
  const { role, kind, meta } = named;
  const bytesMax = Math.min(meta.length ?? Number.POSITIVE_INFINITY, TUF_BYTES_MAX[kind]);
  const path = `${TUF_METADATA}${meta.version}.${encodeURIComponent(role)}.json`;
  const bytes = await fetchBounded(fetch, path, bytesMax, codes.unavailable);
  if (bytes.ok && !matches(meta, bytes.value)) return bad(codes.mismatch, `${path} is not what was named`);
  return bytes;
};

/** Parses, and checks the signatures against the delegation of the parent. */
const readSigned = <K extends TufKind>(
  kind: K,
  bytes: Buffer,
  from: { parent: TufDocument<'root'> | TufDocument<'targets'>; role: string },
  codes: Pick<Codes, 'format' | 'signature'>,
): TrustResult<TufDocument<K>> => {
  const parsed = parseTuf(kind, bytes);
  if (!parsed.ok) return bad(codes.format, `${from.role}: ${parsed.why}`);
  if (!isSignedByRole(parsed.document, from.parent.signed, from.role)) {
    return bad(codes.signature, `${from.role} is not signed by enough of the keys that it is delegated to`);
  }
  return good(parsed.document);
};

/** What was kept, unless it is damaged or its keys were replaced: then there is nothing to roll back from (5.3.11). */
const loadKept = async <K extends 'timestamp' | 'snapshot'>(
  files: TrustFiles,
  kind: K,
  root: TufDocument<'root'>,
): Promise<TufDocument<K> | undefined> => {
  const bytes = await files.read(kind);
  const parsed = bytes === undefined ? undefined : parseTuf(kind, bytes);
  return parsed?.ok === true && isSignedByRole(parsed.document, root.signed, kind) ? parsed.document : undefined;
};

const isExpired = (document: TufDocument<TufKind>, time: number): boolean =>
  Date.parse(document.signed.expires) <= time;
const expired = (code: DeviceErrorCode, document: TufDocument<TufKind>) =>
  bad(code, `it expired at ${document.signed.expires}`);

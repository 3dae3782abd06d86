/** What the repository on disk says: read when the server starts, believed only as far as it is whole. */

import { sha256Hex } from '#shared/trust/canonical.ts';
import { parseTuf, type TufKind } from '#shared/trust/tuf.ts';
import type { MetadataFiles } from './metadata-files.ts';

/** What the timestamp names. `expires` in milliseconds. */
export type Published = {
  roles: Map<string, { version: number; text: string; expires: number }>;
  snapshot: { version: number; text: string; expires: number } | null;
  timestamp: { version: number; expires: number } | null;
};

const ROOTS_MAX = 10_000;

/** The unbroken sequence of root metadata from version 1; empty before the first start. */
export const loadRoots = async (files: MetadataFiles): Promise<string[]> => {
  const roots: string[] = [];
  while (roots.length < ROOTS_MAX) {
    const text = await files.read('root', roots.length + 1);
    if (text === undefined) break;
    roots.push(text);
  }
  return roots;
};

/** Follows the timestamp; when there is none, or it leads nowhere, takes the newest good file of each role. */
export const loadPublished = async (files: MetadataFiles): Promise<Published> => {
  const timestamp = readDocument('timestamp', await files.readTimestamp());
  const wanted = timestamp?.signed.snapshotMeta;
  const text = wanted === undefined ? undefined : await files.read('snapshot', wanted.version);
  const snapshot = readDocument('snapshot', text);
  if (timestamp !== undefined && snapshot !== undefined && text !== undefined) {
    const roles: Published['roles'] = new Map();
    for (const [name, meta] of Object.entries(snapshot.signed.meta)) {
      const role = name.replace(/\.json$/, '');
      const named = await loadRole(files, role, meta.version);
      if (named === undefined || (meta.hashes?.['sha256'] ?? '') !== sha256Hex(named.text)) {
        throw new Error(
          `the metadata ${meta.version}.${role}.json is damaged or missing: restore the data folder from a backup`,
        );
      }
      roles.set(role, named);
    }
    return {
      roles,
      snapshot: { version: snapshot.signed.version, text, expires: Date.parse(snapshot.signed.expires) },
      timestamp: { version: timestamp.signed.version, expires: Date.parse(timestamp.signed.expires) },
    };
  }
  return { roles: await loadNewest(files), snapshot: null, timestamp: null };
};

const loadNewest = async (files: MetadataFiles): Promise<Published['roles']> => {
  const roles: Published['roles'] = new Map();
  for (const role of files.roles()) {
    if (role === 'root' || role === 'snapshot') continue;
    const newest = await loadRole(files, role, files.newest(role));
    if (newest !== undefined) roles.set(role, newest);
  }
  return roles;
};

const loadRole = async (files: MetadataFiles, role: string, version: number) => {
  const text = await files.read(role, version);
  const document = readDocument('targets', text);
  if (text === undefined || document === undefined) return undefined;
  return { version, text, expires: Date.parse(document.signed.expires) };
};

const readDocument = <K extends TufKind>(kind: K, text: string | undefined) => {
  const parsed = text === undefined ? undefined : parseTuf(kind, Buffer.from(text));
  return parsed?.ok === true ? parsed.document : undefined;
};

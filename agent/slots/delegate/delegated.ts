/**
 * The artifact that is handed to an installer: which one of a manifest, and that it is still the one that was verified.
 */
import { createHash } from 'node:crypto';
import { readChunks } from '#agent/disk/hashed-write.ts';
import type { SlotResult } from '#agent/domain/slots.ts';
import { storageRefusal } from '#agent/process/system-error.ts';
import type { Artifact, Manifest } from '#shared/manifest.ts';
import { type Refused, refuse } from '../image-pair.ts';

const PIECE_BYTES = 256 * 1024;

export const delegatedTo = (handler: string, manifest: Manifest): { ok: true; artifact: Artifact } | Refused => {
  const [artifact, ...more] = manifest.artifacts;
  const install = artifact?.install;
  if (artifact !== undefined && install?.kind === 'delegate' && install.handler === handler && more.length === 0)
    return { ok: true, artifact };
  return refuse(`${manifest.product} ${manifest.version} is nothing for the installer ${handler} of this device`);
};

/** An installer may believe what it gets, so it gets only what the manifest names (faults 15). */
export const isAsFetched = async (file: string, { name, sha256 }: Artifact): Promise<SlotResult> => {
  const hash = createHash('sha256');
  try {
    for await (const piece of readChunks(file, PIECE_BYTES)) hash.update(piece);
  } catch (error) {
    return storageRefusal(error, `${file} cannot be read`);
  }
  if (hash.digest('hex') === sha256) return { ok: true };
  return refuse(`${name} has changed on the disk since it was fetched`, 'TARGET_HASH');
};

/** The root that this device is held to since an earlier life, whatever its server is called now. */
import { join } from 'node:path';
import { readFileIfThere } from '#shared/durable.ts';
import type { Sha256 } from '#shared/ids.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { isSignedByRole, parseTuf } from '#shared/trust/tuf.ts';
import { readLastEnrolled } from './enrol.ts';

/**
 * By what is pinned; where that is damaged or was never fetched, by the last enrolment. Undefined: the device never had
 * one.
 */
export const readKnownRoot = async (dataDir: string): Promise<Sha256 | undefined> => {
  const bytes = await readFileIfThere(join(dataDir, 'trust', 'pinned-root.json')).catch(() => undefined);
  const parsed = bytes === undefined ? undefined : parseTuf('root', bytes);
  if (bytes !== undefined && parsed?.ok === true && isSignedByRole(parsed.document, parsed.document.signed, 'root'))
    return sha256Hex(bytes);
  return (await readLastEnrolled(dataDir))?.rootSha256;
};

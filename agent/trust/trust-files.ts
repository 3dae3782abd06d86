/**
 * What the device remembers about trust, in one folder, each file written durably. Any of them may be damaged on disk:
 * then it counts as absent, and the next best is used. Nothing that is read here is believed before its signatures are
 * checked.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { Millis } from '#shared/ids.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { asFarAsPossible } from '../process/system-error.ts';

/**
 * `seq`: the highest that was accepted; `floor`: the latest time that the director attested. Kept in two copies, of
 * which the higher counts, so that one damaged file does not let old instructions in again.
 */
const Remembered = z.object({ seq: z.number().int().min(0), floor: Millis });
type Remembered = z.infer<typeof Remembered>;
const COPIES = ['state.json', 'state.copy.json'] as const;

/**
 * `pinned-root` is the first root, as it was pinned; `root` the newest. A delegated role has the name that its signer
 * gave it.
 */
type MetadataName = 'pinned-root' | 'root' | 'timestamp' | 'snapshot' | 'targets' | { delegated: string };

/**
 * No name from outside is a file name as it stands, and none reaches a file that is not its own: the roles of products
 * keep theirs, any other is a digest.
 */
const fileNameOf = (name: MetadataName): string => {
  if (typeof name === 'string') return `${name}.json`;
  const { delegated } = name;
  return PRODUCT_ROLE.test(delegated) ? `${delegated}.json` : `role.${sha256Hex(delegated)}.json`;
};
const PRODUCT_ROLE = /^ci-[A-Za-z0-9_-]{1,64}$/;

export type TrustFiles = {
  read(name: MetadataName): Promise<Buffer | undefined>;
  write(name: MetadataName, bytes: Uint8Array): Promise<void>;
  remembered(): Remembered;
  remember(next: Remembered): Promise<void>;
};

export const openTrustFiles = async (dir: string): Promise<TrustFiles> => {
  await asFarAsPossible(mkdir(dir, { recursive: true, mode: 0o700 }));
  const fileOf = (name: MetadataName): string => join(dir, fileNameOf(name));
  let remembered: Remembered = { seq: 0, floor: 0 };
  for (const name of COPIES) {
    const copy = readRemembered(await readOrNothing(join(dir, name)));
    remembered = { seq: Math.max(copy.seq, remembered.seq), floor: Math.max(copy.floor, remembered.floor) };
  }
  return {
    read: (name) => readOrNothing(fileOf(name)),
    write: (name, bytes) => writeFileDurably(fileOf(name), bytes, 0o600),
    remembered: () => remembered,
    remember: async (next) => {
      for (const name of COPIES) await writeFileDurably(join(dir, name), JSON.stringify(next), 0o600);
      remembered = next;
    },
  };
};

/** An unreadable sector is a damaged file. */
const readOrNothing = async (file: string): Promise<Buffer | undefined> => {
  try {
    return await readFileIfThere(file);
  } catch {
    return undefined;
  }
};

const readRemembered = (bytes: Buffer | undefined): Remembered => {
  try {
    const parsed = Remembered.safeParse(JSON.parse(bytes?.toString() ?? ''));
    if (parsed.success) return parsed.data;
  } catch {
    // not JSON: as if it were not there
  }
  return { seq: 0, floor: 0 };
};

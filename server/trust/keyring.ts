/**
 * The server's own keys, one PEM file a role. The first start makes all of them; `root` and `targets` should then move
 * offline.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { generatePrivateKey, type Signer, signerFromPem } from '#shared/trust/signers.ts';

/** Needed all the time: without one of these the server can't start. */
const ONLINE = ['snapshot', 'timestamp', 'director', 'log'] as const;
/** Needed only to change who is trusted. */
const OFFLINE = ['root', 'targets'] as const;

export type Keyring = Record<(typeof ONLINE)[number], Signer> & {
  /** Null when it was moved offline. */
  root: Signer | null;
  targets: Signer | null;
  /** Whether the keys were made just now. */
  created: boolean;
};

const MARK = 'keyring.json';
const keyFile = (dir: string, role: string): string => join(dir, `${role}.pem`);

/**
 * Opens the folder, or makes it (0700) with an Ed25519 key for each role (0600). A mark is written after the last key:
 * with it, a missing key is a key that someone took away, and is never made again. A first start that was cut off goes
 * on. Throws when an online key is missing or a file is not a key.
 */
export const openKeyring = async (dir: string): Promise<Keyring> => {
  const created = (await readFileIfThere(join(dir, MARK))) === undefined;
  if (created) await makeKeys(dir);
  const [root, targets] = [await readKey(dir, 'root'), await readKey(dir, 'targets')];
  return {
    root,
    targets,
    snapshot: await needKey(dir, 'snapshot'),
    timestamp: await needKey(dir, 'timestamp'),
    director: await needKey(dir, 'director'),
    log: await needKey(dir, 'log'),
    created,
  };
};

const makeKeys = async (dir: string): Promise<void> => {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  for (const role of [...OFFLINE, ...ONLINE]) {
    if ((await readFileIfThere(keyFile(dir, role))) !== undefined) continue;
    await writeFileDurably(keyFile(dir, role), generatePrivateKey('ed25519'), 0o600);
  }
  await writeFileDurably(join(dir, MARK), `${JSON.stringify({ format: 1 })}\n`, 0o600);
};

const readKey = async (dir: string, role: string): Promise<Signer | null> => {
  const pem = await readFileIfThere(keyFile(dir, role));
  if (pem === undefined) return null;
  const signer = signerFromPem(pem.toString());
  if (!signer.ok) throw new Error(`${keyFile(dir, role)}: ${signer.detail}`);
  return signer.value;
};

const needKey = async (dir: string, role: (typeof ONLINE)[number]): Promise<Signer> => {
  const key = await readKey(dir, role);
  if (key === null) {
    throw new Error(`the ${role} key is missing: restore ${keyFile(dir, role)} from the backup of the data folder`);
  }
  return key;
};

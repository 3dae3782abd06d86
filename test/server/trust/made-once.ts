/**
 * The keys and the empty repository of a server's first start, made once in a process and copied: each of its
 * signatures costs milliseconds, and hundreds of tests want a repository of their own.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type Keyring, openKeyring } from '#server/trust/keyring.ts';
import { openRepository, type Repository } from '#server/trust/repository.ts';

type Made = { keyring: Keyring; files: { path: string; bytes: Buffer }[] };

const made = new Map<string, Promise<Made>>();

const make = async (at: number): Promise<Made> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-made-'));
  try {
    const keyring = await openKeyring(join(dir, 'keys'));
    await openRepository({ dir: join(dir, 'tuf'), keyring, now: () => at });
    const entries = await readdir(dir, { recursive: true, withFileTypes: true });
    const paths = entries.filter((entry) => entry.isFile()).map(({ parentPath, name }) => join(parentPath, name));
    const files = paths.map(async (path) => ({ path: path.slice(dir.length), bytes: await readFile(path) }));
    return { keyring, files: await Promise.all(files) };
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
};

/** In `keys/` and `tuf/` of the folder. All servers of the same owner have the same keys. */
export const firstStart = async (
  dir: string,
  now: () => number,
  owner = 'us',
): Promise<{ keyring: Keyring; repository: Repository }> => {
  const of = `${owner} ${now()}`;
  if (!made.has(of)) made.set(of, make(now()));
  const { keyring, files } = await made.get(of)!;
  for (const { path, bytes } of files) {
    mkdirSync(dirname(join(dir, path)), { recursive: true });
    writeFileSync(join(dir, path), bytes, { mode: 0o600 });
  }
  return { keyring: { ...keyring }, repository: await openRepository({ dir: join(dir, 'tuf'), keyring, now }) };
};

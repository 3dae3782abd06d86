/**
 * A backup: the data folder at one moment, made while the server runs (from another process: nothing of it blocks the
 * server), in the same layout, with `backup.json` written last, so that a folder without it is no backup.
 */
import { createHash } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { access, copyFile, link, mkdir, open, readdir, readFile, rm, stat } from 'node:fs/promises';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { z } from 'zod';
import { syncFolder, writeFileDurably } from '#shared/durable.ts';
import { Sha256 } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { pathFault } from '#shared/tree-path.ts';
import { rootOfHead } from '#shared/trust/merkle.ts';
import { inDataFolder } from './data-folder.ts';
import { objectFile } from './store/objects.ts';
import { readSnapshot, snapshotDatabase } from './store/sqlite/snapshot.ts';

export const BACKUP_FILE = 'backup.json';

/** `backup.json`: what the folder holds. Objects are named by their digests; everything else is in `files`, by path. */
export const Backup = z.strictObject({
  format: z.literal(1),
  /** When the database was read, in milliseconds. */
  at: z.int(),
  audit: z.strictObject({ size: z.int(), root: Sha256 }),
  objects: z.array(Sha256).max(1_000_000),
  objectBytes: z.int(),
  files: z.record(
    z
      .string()
      .regex(/^(sluice\.db|(keys|tuf)\/.+)$/)
      .refine((path) => pathFault(path) === undefined),
    Sha256,
  ),
});
export type Backup = z.infer<typeof Backup>;

/** Someone publishing right now makes another attempt necessary; no one publishes this often. */
const ATTEMPTS_MAX = 10;

/**
 * Backs the data folder up into `into`, which must be empty or absent and is for its owner only: the keys are in it.
 * Refuses `not-found` (no data folder there), `conflict` (`into` is in use), `unavailable` (publishing never paused).
 * Nothing is left behind unless it succeeds.
 */
export const makeBackup = async (options: {
  dataDir: string;
  into: string;
  now: () => number;
  onProgress?: (done: number, total: number) => void;
}): Promise<Result<Backup>> => {
  const [from, into] = [resolve(options.dataDir), resolve(options.into)];
  if (!(await isThere(inDataFolder(from).database)))
    return refuse('not-found', `${from} is not the data folder of a server: name it with --data-dir`);
  if (isWithin(from, into)) return refuse('conflict', `${into} is inside the data folder`);
  if ((await entriesOf(into)).length > 0)
    return refuse('conflict', `${into} is not empty: a backup needs a new folder`);
  await mkdir(into, { recursive: true, mode: 0o700 });
  let done = false;
  try {
    const made = await fill({ from, into, now: options.now, onProgress: options.onProgress ?? (() => {}) });
    done = made.ok;
    return made;
  } finally {
    if (!done) await emptyFolder(into);
  }
};

type Filling = { from: string; into: string; now: () => number; onProgress: (done: number, total: number) => void };

const fill = async ({ from, into, now, onProgress }: Filling): Promise<Result<Backup>> => {
  const at = await copyRecords(from, into, now);
  if (at === undefined) return refuse('unavailable', 'releases are published all the time: try again in a moment');
  await copyTree(join(from, 'keys'), join(into, 'keys'));
  const { objects, auditHead } = await readSnapshot(inDataFolder(into).database);
  // After the database: what it refers to was kept before it was recorded, and is swept only when nothing refers to it.
  let objectBytes = 0;
  for (const [index, sha256] of objects.entries()) {
    onProgress(index, objects.length);
    const copy = objectFile(into, sha256);
    await mkdir(dirname(copy), { recursive: true });
    await linkOrCopy(objectFile(from, sha256), copy);
    objectBytes += (await stat(copy)).size;
  }
  const files: Backup['files'] = {};
  for (const file of await filesUnder(into)) {
    if (!file.startsWith('objects/')) files[file] = await digestOf(join(into, file));
  }
  await syncFolders(into);
  const audit = { size: auditHead.size, root: rootOfHead(auditHead) };
  const backup: Backup = { format: 1, at, audit, objects, objectBytes, files };
  await writeFileDurably(join(into, BACKUP_FILE), `${JSON.stringify(backup, null, 2)}\n`, 0o600);
  return accept(backup);
};

/**
 * The database and the metadata, so that they agree. A publication is recorded in the one and then put into the other:
 * when the timestamp, which is written last, was the same before and after, nothing was published in between. Undefined
 * when that never happened.
 */
const copyRecords = async (from: string, into: string, now: () => number): Promise<number | undefined> => {
  const [source, copy] = [inDataFolder(from), inDataFolder(into)];
  const stamp = () => readFile(join(source.repository, 'metadata', 'timestamp.json'), 'utf8');
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
    await emptyFolder(into);
    const [before, at] = [await stamp(), now()];
    snapshotDatabase(source.database, copy.database);
    await syncFile(copy.database);
    await copyTree(source.repository, copy.repository);
    if ((await stamp()) === before) return at;
  }
  return undefined;
};

/**
 * Regular files only; one that is removed meanwhile (old metadata) is left out, as are files that are still being
 * written.
 */
const copyTree = async (from: string, to: string): Promise<void> => {
  await mkdir(to, { recursive: true, mode: 0o700 });
  for (const file of await filesUnder(from)) {
    if (file.endsWith('.tmp')) continue;
    await mkdir(dirname(join(to, file)), { recursive: true, mode: 0o700 });
    try {
      await copyDurably(join(from, file), join(to, file));
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw error;
    }
  }
};

/**
 * An object never changes, so the same file may have a name in both places. Not where the backup is on another file
 * system.
 */
const linkOrCopy = async (from: string, to: string): Promise<void> => {
  try {
    await link(from, to);
  } catch (error) {
    if (!['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP', 'ENOSYS'].includes(String(codeOf(error)))) throw error;
    await copyDurably(from, to);
  }
};

const isThere = (file: string): Promise<boolean> =>
  access(file).then(
    () => true,
    () => false,
  );

const codeOf = (error: unknown): unknown => (error instanceof Error && 'code' in error ? error.code : undefined);

const isWithin = (outer: string, inner: string): boolean =>
  relative(outer, inner) === '' || !relative(outer, inner).startsWith('..');

/** What a file system keeps for itself does not count. */
export const entriesOf = async (dir: string): Promise<string[]> => {
  try {
    return (await readdir(dir)).filter((name) => name !== 'lost+found');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return [];
    throw error;
  }
};

export const emptyFolder = async (dir: string): Promise<void> => {
  for (const name of await entriesOf(dir)) await rm(join(dir, name), { recursive: true, force: true });
};

/** Paths relative to `dir`, with `/`. */
const filesUnder = async (dir: string): Promise<string[]> =>
  (await readdir(dir, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => relative(dir, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .sort();

export const digestOf = async (file: string): Promise<Sha256> => {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file, { highWaterMark: 1024 * 1024 })) hash.update(chunk);
  return Sha256.parse(hash.digest('hex'));
};

const syncFile = async (file: string): Promise<void> => {
  const handle = await open(file, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
};

/** Shares the blocks where the file system can; keeps the mode, which matters for keys. */
export const copyDurably = async (from: string, to: string): Promise<void> => {
  await copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
  await syncFile(to);
};

export const syncFolders = async (dir: string): Promise<void> => {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  for (const entry of entries) if (entry.isDirectory()) await syncFolder(join(entry.parentPath, entry.name));
  await syncFolder(dir);
};

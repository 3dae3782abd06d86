/** Puts a backup back as the data folder of a server that is not running. */
import { mkdir } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { readFileIfThere } from '#shared/durable.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { BACKUP_FILE, Backup, copyDurably, digestOf, emptyFolder, entriesOf, syncFolders } from './backup.ts';
import { inDataFolder, takeDataFolder } from './data-folder.ts';
import { auditLine, BY_SERVER } from './domain/audit.ts';
import { objectFile } from './store/objects.ts';
import { openInProcessStore } from './store/sqlite/open.ts';

/** Devices have accepted instructions that the backup does not know of: no one gets this many between two backups. */
const SEQS_SKIPPED = 1_000_000;

/**
 * Copies and checks every byte against its digest, then notes the restore in the audit log. `dataDir` must be empty or
 * absent. Refuses `not-found` (no backup there), `conflict` (`dataDir` is in use), `digest-mismatch` (damaged); throws
 * `StartFailure` when `dataDir` cannot be used. Nothing is left behind unless it succeeds.
 */
export const restoreBackup = async (options: {
  from: string;
  dataDir: string;
  now: () => number;
  onProgress?: (done: number, total: number) => void;
}): Promise<Result<Backup>> => {
  const [from, dataDir] = [resolve(options.from), resolve(options.dataDir)];
  const read = await readBackup(from);
  if (!read.ok) return read;
  if ((await entriesOf(dataDir)).length > 0)
    return refuse('conflict', `${dataDir} is not empty: move what is there away, or choose another with --data-dir`);
  const lock = takeDataFolder(dataDir);
  let damaged: string | undefined = 'nothing was copied';
  try {
    damaged = await copyBack(read.value, from, dataDir, options.onProgress ?? (() => {}));
    if (damaged !== undefined) return refuse('digest-mismatch', `the backup is damaged: ${damaged}`);
    await noteRestore(read.value, dataDir, options.now());
    await syncFolders(dataDir);
    return read;
  } catch (error) {
    damaged ??= 'failed';
    throw error;
  } finally {
    lock.release();
    if (damaged !== undefined) await emptyFolder(dataDir);
  }
};

const readBackup = async (from: string): Promise<Result<Backup>> => {
  const text = await readFileIfThere(join(from, BACKUP_FILE));
  if (text === undefined)
    return refuse('not-found', `${from} is no backup, or not a whole one: it has no ${BACKUP_FILE}`);
  try {
    return accept(Backup.parse(JSON.parse(text.toString())));
  } catch {
    return refuse('not-found', `${join(from, BACKUP_FILE)} cannot be understood: damaged, or of a newer Sluice`);
  }
};

/** What is damaged or missing, in words. */
const copyBack = async (
  backup: Backup,
  from: string,
  dataDir: string,
  onProgress: (done: number, total: number) => void,
): Promise<string | undefined> => {
  const objects = backup.objects.map((sha256) => [objectFile('', sha256), sha256] as const);
  // Keys last: without them a server that is started on half a folder says that this is not its folder.
  const records = Object.entries(backup.files).sort(([one], [other]) => rank(one) - rank(other));
  const all = [...objects, ...records];
  for (const [index, [file, sha256]] of all.entries()) {
    onProgress(index, all.length);
    const copy = resolve(dataDir, file);
    if (!copy.startsWith(`${dataDir}/`)) return `it names the file ${file}`;
    await mkdir(dirname(copy), { recursive: true, mode: 0o700 });
    try {
      await copyDurably(join(from, file), copy);
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return `${file} is missing`;
      throw error;
    }
    if ((await digestOf(copy)) !== sha256) return `${file} has another digest`;
  }
  return undefined;
};
const rank = (file: string): number => (file.startsWith('keys/') ? 1 : 0);

const noteRestore = async (backup: Backup, dataDir: string, now: number): Promise<void> => {
  const store = openInProcessStore(inDataFolder(dataDir).database);
  try {
    await store.skipDesiredSeqs(SEQS_SKIPPED);
    const { size, root } = backup.audit;
    await store.appendAudit([
      auditLine({ at: now, by: BY_SERVER, kind: 'server-restored', backupAt: backup.at, size, root }),
    ]);
  } finally {
    await store.close();
  }
};

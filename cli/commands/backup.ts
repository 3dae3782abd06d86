/** `sluice backup` and `sluice restore`: on the server's own machine, by anyone who may read the data folder. */
import type { Command } from 'commander';
import type { Backup } from '#server/backup.ts';
import { loadConfig } from '#server/config.ts';
import { withExamples } from '../command.ts';
import { CliFailure, usageFailure, valueOf } from '../failure.ts';
import { formatBytes, formatTime, print, printError, printJson, withProgress } from '../terminal.ts';

type Flags = { config?: string; dataDir?: string; json?: boolean };

export const addBackup = (program: Command): void => {
  const backup = program
    .command('backup')
    .description("Back a server's data folder up while the server runs: database, metadata, keys, artifacts")
    .argument('<folder>', 'where to; a new or empty folder');
  withDataDir(backup).action(async (folder: string, flags: Flags) => {
    const dataDir = dataDirOf(flags);
    const { makeBackup } = await import('#server/backup.ts');
    const made = await withProgress(
      'copying',
      (onProgress) => inWords(makeBackup({ dataDir, into: folder, now: Date.now, onProgress })),
      (files) => `${files} artifacts`,
    );
    const done = valueOf(made, 'no backup was made');
    if (flags.json === true) return printJson({ folder, ...summaryOf(done) });
    print(`Backed up ${wordsOf(done)} to ${folder}`);
    printError('The private keys are in it: keep it where no one else can read it, and on another machine.');
  });
  withExamples(backup, [
    ['Every night, by cron or a timer', 'sluice backup --data-dir /var/lib/sluice /backup/sluice-$(date +%F)'],
  ]);

  const restore = program
    .command('restore')
    .description('Check a backup, every byte of it, and make it the data folder of a server')
    .argument('<folder>', 'the backup');
  withDataDir(restore).action(async (folder: string, flags: Flags) => {
    const dataDir = dataDirOf(flags);
    const { restoreBackup } = await import('#server/restore.ts');
    const restored = await withProgress(
      'restoring',
      (onProgress) => inWords(restoreBackup({ from: folder, dataDir, now: Date.now, onProgress })),
      (files) => `${files} files`,
    );
    const done = valueOf(restored, 'nothing was restored');
    if (flags.json === true) return printJson({ dataDir, ...summaryOf(done) });
    print(`Restored ${wordsOf(done)} to ${dataDir}`);
    print('Start the server. Publish again what CI has published since: docs/operations.md#backup-and-restore');
  });
  withExamples(restore, [
    ['On a new machine', 'sluice restore /backup/sluice-2026-11-21 --data-dir /var/lib/sluice'],
    ['Whether a backup is good', 'sluice restore /backup/sluice-2026-11-21 --data-dir "$(mktemp -d)"'],
  ]);
};

const withDataDir = (command: Command): Command =>
  command
    .option('--data-dir <folder>', "the server's data folder (default: SLUICE_DATA_DIR, the configuration, ./data)")
    .option('--config <file>', "the server's configuration, YAML or JSON")
    .option('--json', 'print JSON for scripts, times in milliseconds');

/** The same way as the server finds it. */
const dataDirOf = ({ config, dataDir }: Flags): string => {
  const flags = { 'data-dir': dataDir };
  const loaded = loadConfig({ file: config, env: process.env, flags });
  if (!loaded.ok) throw usageFailure(loaded.detail);
  return loaded.value.dataDir;
};

/** What the disk refuses (no space, no permission) is no bug, and a stack trace would explain nothing more. */
const inWords = async <T>(work: Promise<T>): Promise<T> => {
  try {
    return await work;
  } catch (cause) {
    const known = cause instanceof Error && ('code' in cause || cause.name === 'StartFailure');
    throw known ? new CliFailure(cause.message, { cause }) : cause;
  }
};

const summaryOf = ({ at, audit, objects, objectBytes }: Backup) => ({
  at,
  audit,
  objects: objects.length,
  objectBytes,
});
const wordsOf = ({ at, audit, objects, objectBytes }: Backup): string =>
  `the state of ${formatTime(at)} (${objects.length} artifacts, ${formatBytes(objectBytes)}; ${audit.size} lines of audit log)`;

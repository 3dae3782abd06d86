/** The database as a file of its own, at one moment, while a server may be writing to it. */
import Database from 'better-sqlite3';
import type { Sha256 } from '#shared/ids.ts';
import type { AuditHead } from '../audit.ts';
import { readHead } from '../methods/audit.ts';
import { neededObjects } from '../methods/transfer.ts';
import { openSqlToRead } from './sql.ts';

/**
 * Copies `file` to `to`, which must not exist. Reads one snapshot (WAL), so that writers go on; SQLite's own online
 * backup starts again at each of their writes, and under load never ends. Blocks its thread, so not for the server's.
 */
export const snapshotDatabase = (file: string, to: string): void => {
  const database = new Database(file, { readonly: true, fileMustExist: true, timeout: 10_000 });
  try {
    database.prepare('VACUUM INTO ?').run(to);
  } finally {
    database.close();
  }
};

/** What a snapshot needs beside it to be whole. The file is left as it is, not even migrated. */
export const readSnapshot = async (file: string): Promise<{ objects: Sha256[]; auditHead: AuditHead }> => {
  const sql = openSqlToRead(file);
  try {
    return { objects: await neededObjects(sql), auditHead: await readHead(sql) };
  } finally {
    sql.close();
  }
};

/** The few ways in which the rest of this folder speaks to SQLite: prepared once, plain rows out. */
import Database from 'better-sqlite3';
import { migrate } from './migrations.ts';

/**
 * What SQLite can bind: booleans and objects become 0, 1 and JSON text before they come here. Every number is bound as
 * REAL: CAST it where it is divided by.
 */
export type Value = string | number | null | Uint8Array;
// oxlint-disable typescript/no-unnecessary-type-parameters -- `Row` is the caller's word for what its SELECT yields: SQL has no types to infer it from
export type Sql = {
  /** Returns how many rows changed. */
  run(statement: string, ...values: Value[]): number;
  get<Row>(statement: string, ...values: Value[]): Row | undefined;
  all<Row>(statement: string, ...values: Value[]): Row[];
  /** All of `work` is committed, or none: `BEGIN IMMEDIATE`, so that it never fails half-way for want of the write lock. */
  transaction<R>(work: () => R): R;
  close(): void;
};

/**
 * Opens or makes the database and brings its schema up to date.
 *
 * `synchronous = FULL`: a device forgets a receipt as soon as the server acknowledges it, so what was acknowledged must
 * survive loss of power; in WAL mode NORMAL would lose the last commits. `wal_autocheckpoint = 20000` pages (80 MB) makes
 * the checkpoints, which cost more than the commits, rare.
 */
export const openSql = (file: string): Sql => {
  const database = new Database(file);
  try {
    database.pragma('busy_timeout = 5000');
    database.pragma('journal_mode = WAL');
    database.pragma('synchronous = FULL');
    database.pragma('wal_autocheckpoint = 20000');
    database.pragma('foreign_keys = ON');
    migrate(database);
  } catch (error) {
    database.close();
    throw error;
  }
  return sqlOf(database);
};

/** As it is on disk: nothing is migrated, and nothing can be written. For a copy that nobody else has open. */
export const openSqlToRead = (file: string): Sql => sqlOf(new Database(file, { readonly: true }));

const sqlOf = (database: Database.Database): Sql => {
  // Bounded by the number of statements written in this folder: none is built from data.
  const prepared = new Map<string, Database.Statement<Value[]>>();
  const prepare = (statement: string): Database.Statement<Value[]> => {
    const known = prepared.get(statement);
    if (known !== undefined) return known;
    const made = database.prepare<Value[]>(statement);
    prepared.set(statement, made);
    return made;
  };
  const begin = database.transaction((work: () => unknown) => work());
  // oxlint-disable typescript/no-unsafe-type-assertion -- see `Row` above
  return {
    run: (statement, ...values) => prepare(statement).run(...values).changes,
    get: <Row>(statement: string, ...values: Value[]) => prepare(statement).get(...values) as Row | undefined,
    all: <Row>(statement: string, ...values: Value[]) => prepare(statement).all(...values) as Row[],
    transaction: <R>(work: () => R) => begin.immediate(work) as R,
    close: () => {
      database.close();
    },
  };
};

const PAGE_MAX = 10_000;
const IDS_MAX = 100_000;

/** The `LIMIT` of a list. A caller that asks for more than is allowed has a bug: cutting its page short would look like the last one. */
export const limitOf = (limit: number): number => {
  if (!Number.isInteger(limit) || limit < 1 || limit > PAGE_MAX)
    throw new RangeError(`a page has 1 to ${PAGE_MAX} entries, not ${limit}`);
  return limit;
};
/** Many ids as one bound value, for `IN (SELECT value FROM json_each(?))`. */
export const idList = (ids: readonly (string | number)[]): string => {
  if (ids.length > IDS_MAX) throw new RangeError(`at most ${IDS_MAX} ids at once, not ${ids.length}`);
  return JSON.stringify(ids);
};
export const toJson = (value: object | null): string | null => (value === null ? null : JSON.stringify(value));
/** JSON that this folder wrote, from a value of this very type. */
export const fromJson = <T>(value: string): T => JSON.parse(value) as T;

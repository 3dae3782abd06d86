/** The port of `../sql.ts` on better-sqlite3: statements are prepared once, and run at once. */
import Database from 'better-sqlite3';
import { oneAtATime } from '#shared/in-turn.ts';
import type { Sql, Value, Values } from '../sql.ts';
import { DIALECT } from './dialect.ts';
import { migrate } from './migrations.ts';

/** `close` belongs to the one that opened it. */
export type SqliteSql = Sql & { close(): void };

/**
 * Opens or makes the database and brings its schema up to date.
 *
 * `synchronous = FULL`: a device forgets a receipt as soon as the server acknowledges it, so what was acknowledged must
 * survive loss of power; in WAL mode NORMAL would lose the last commits. `wal_autocheckpoint = 20000` pages (80 MB)
 * makes the checkpoints, which cost more than the commits, rare.
 */
export const openDatabase = (file: string): Database.Database => {
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
  return database;
};
export const openSql = (file: string): SqliteSql => sqlOn(openDatabase(file));

/** As it is on disk: nothing is migrated, and nothing can be written. For a copy that no one else has open. */
export const openSqlToRead = (file: string): SqliteSql => sqlOn(new Database(file, { readonly: true }));

type Bound = Exclude<Value, boolean>;
/** SQLite knows no booleans. */
const bound = (values: Values): Record<string, Bound> => {
  const all: Record<string, Bound> = {};
  for (const name in values) {
    const value = values[name]!;
    all[name] = value === true ? 1 : value === false ? 0 : value;
  }
  return all;
};

const NONE = {};

export const sqlOn = (database: Database.Database): SqliteSql => {
  // Bounded by the number of statements that are written in the store: none is built from data.
  const prepared = new Map<string, Database.Statement<[Record<string, Bound>]>>();
  const prepare = (statement: string): Database.Statement<[Record<string, Bound>]> => {
    const known = prepared.get(statement);
    if (known !== undefined) return known;
    const made = database.prepare<[Record<string, Bound>]>(statement);
    prepared.set(statement, made);
    return made;
  };
  const [begin, commit, rollback] = ['BEGIN IMMEDIATE', 'COMMIT', 'ROLLBACK'].map((word) => database.prepare(word));
  /** There is one connection: transactions take turns. */
  const inTurn = oneAtATime();

  // oxlint-disable typescript/no-unsafe-type-assertion -- see `Row` in ../sql.ts
  const sql: SqliteSql = {
    all: async <Row>(statement: string, values: Values = NONE) => prepare(statement).all(bound(values)) as Row[],
    get: async <Row>(statement: string, values: Values = NONE) =>
      prepare(statement).get(bound(values)) as Row | undefined,
    run: async (statement, values = NONE) => prepare(statement).run(bound(values)).changes,
    transaction: (work) =>
      inTurn(async () => {
        begin!.run();
        try {
          const result = await work(sql);
          commit!.run();
          return result;
        } catch (error) {
          // Some errors end the transaction by themselves (a full disk).
          if (database.inTransaction) rollback!.run();
          throw error;
        }
      }),
    dialect: DIALECT,
    close: () => {
      database.close();
    },
  };
  return sql;
};

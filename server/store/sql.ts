/**
 * The few ways in which the store's methods speak to a database: a port that each engine implements (`sqlite/`).
 * Statements are written once, in the SQL that engines share; what they say differently is in `Dialect`, and in each
 * engine's schema.
 */

/** Booleans are stored as 0 and 1; objects become JSON text before they come here. */
export type Value = string | number | boolean | null | Uint8Array;
/** A statement names them with a colon: `:device`. Those that it does not name are ignored. */
export type Values = Record<string, Value>;

// oxlint-disable typescript/no-unnecessary-type-parameters -- `Row` is the caller's word for what its SELECT yields: SQL has no types to infer it from
export type Sql = {
  all<Row>(statement: string, values?: Values): Promise<Row[]>;
  /** The first row. */
  get<Row>(statement: string, values?: Values): Promise<Row | undefined>;
  /** Returns how many rows changed. */
  run(statement: string, values?: Values): Promise<number>;
  /**
   * All of `work` is committed, or none. It takes the lock for writing at once, so that it never fails half-way for
   * want of it. Nothing else comes in between, and nothing but `sql` may be awaited in it.
   */
  transaction<R>(work: (sql: Sql) => Promise<R>): Promise<R>;
  readonly dialect: Dialect;
};

/** What a column of `Dialect.rows` holds. */
export type ColumnType = 'text' | 'integer' | 'json';

/** What engines say differently. */
export type Dialect = {
  /** The members of the JSON list that is bound as `:name`, for `IN`: a query with one column, `value`. */
  list: (name: string) => string;
  /** The objects of the JSON list that is bound as `:name`: a table of that name, with these columns. */
  rows: (name: string, columns: Readonly<Record<string, ColumnType>>) => string;
  /** The members of the list `name` in the JSON column, as a table with a column `value`. */
  members: (column: string, name: string) => string;
  /** The JSON column with `:by` added to its member `name`, which is not negative, where it has one. */
  shifted: (column: string, name: string, by: string) => string;
  /** Hexadecimal digits as the bytes that they stand for. */
  bytesOf: (digits: string) => string;
  /** The larger of two values that are not null. */
  larger: (one: string, other: string) => string;
};

const PAGE_MAX = 10_000;
const IDS_MAX = 100_000;

/**
 * The `LIMIT` of a list. A caller that asks for more than is allowed has a bug: cutting its page short would look like
 * the last one.
 */
export const limitOf = (limit: number): number => {
  if (!Number.isInteger(limit) || limit < 1 || limit > PAGE_MAX)
    throw new RangeError(`a page has 1 to ${PAGE_MAX} entries, not ${limit}`);
  return limit;
};
/** Many ids as one bound value, for `Dialect.list`. */
export const idList = (ids: readonly (string | number)[]): string => {
  if (ids.length > IDS_MAX) throw new RangeError(`at most ${IDS_MAX} ids at once, not ${ids.length}`);
  return JSON.stringify(ids);
};
/** Many rows as one bound value, for `Dialect.rows`. */
export const rowList = (rows: readonly object[]): string => JSON.stringify(rows);
/** JSON that this folder wrote, from a value of this very type. */
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- see above
export const fromJson = <T>(value: string): T => JSON.parse(value) as T;

/** What SQLite says in its own way. */
import type { Dialect } from '../sql.ts';

/** `->>` gives a member of an object as what it is in SQL, and an object or list as its JSON text. */
export const DIALECT: Dialect = {
  list: (name) => `SELECT value FROM json_each(:${name})`,
  rows: (name, columns) => {
    const members = Object.keys(columns).map((column) => `value ->> '${column}' AS ${column}`);
    return `(SELECT ${members.join(', ')} FROM json_each(:${name})) AS ${name}`;
  },
  members: (column, name) => `json_each(${column}, '$.${name}')`,
  shifted: (column, name, by) =>
    `CASE WHEN ${column} ->> '${name}' IS NULL THEN ${column}
       ELSE json_set(${column}, '$.${name}', max(0, (${column} ->> '${name}') + CAST(:${by} AS INTEGER))) END`,
  bytesOf: (digits) => `unhex(${digits})`,
  larger: (one, other) => `max(${one}, ${other})`,
};

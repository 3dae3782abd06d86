import type { Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

export const meta = (sql: Sql) =>
  ({
    getMeta: (key) => sql.get<{ value: string }>('SELECT value FROM meta WHERE key = ?', key)?.value,
    setMeta: (key, value) => {
      sql.run('INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value', key, value);
    },
  }) satisfies Partial<SyncStore>;

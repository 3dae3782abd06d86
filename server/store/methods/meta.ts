import type { Methods } from './methods.ts';

export const meta = {
  getMeta: async (sql, key) =>
    (await sql.get<{ value: string }>('SELECT value FROM meta WHERE key = :key', { key }))?.value,
  setMeta: async (sql, key, value) => {
    await sql.run(
      'INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value',
      { key, value },
    );
  },
} satisfies Partial<Methods>;

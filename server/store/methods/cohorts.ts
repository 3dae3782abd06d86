import type { Id } from '#shared/ids.ts';
import type { CohortRecord } from '../devices.ts';
import { fromJson, limitOf, type Sql } from '../sql.ts';
import { appendAudit } from './audit.ts';
import type { Methods } from './methods.ts';

type CohortRow = { name: Id; members: string; createdAt: number };
const COLUMNS = 'name, members, created_at AS "createdAt"';
const toCohort = (row: CohortRow): CohortRecord => ({ ...row, members: fromJson(row.members) });

/** Throws when the name is taken. */
export const insertCohort = async (sql: Sql, { name, members, createdAt }: CohortRecord): Promise<void> => {
  await sql.run('INSERT INTO cohorts (name, members, created_at) VALUES (:name, :members, :createdAt)', {
    name,
    members: JSON.stringify(members),
    createdAt,
  });
};

export const cohorts = {
  createCohort: async (sql, cohort, audit) => {
    if ((await sql.get('SELECT 1 FROM cohorts WHERE name = :name', { name: cohort.name })) !== undefined)
      return 'exists';
    await insertCohort(sql, cohort);
    await appendAudit(sql, [audit]);
    return 'created';
  },
  getCohort: async (sql, name) => {
    const row = await sql.get<CohortRow>(`SELECT ${COLUMNS} FROM cohorts WHERE name = :name`, { name });
    return row && toCohort(row);
  },
  listCohorts: async (sql, page = { limit: 1000 }) => {
    const rows = await sql.all<CohortRow>(
      `SELECT ${COLUMNS} FROM cohorts WHERE name > :after ORDER BY name LIMIT :limit`,
      { after: page.after ?? '', limit: limitOf(page.limit) },
    );
    return rows.map(toCohort);
  },
} satisfies Partial<Methods>;

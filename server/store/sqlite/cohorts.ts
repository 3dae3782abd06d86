import type { Id } from '#shared/ids.ts';
import type { CohortRecord } from '../devices.ts';
import { appendAudit } from './audit.ts';
import { fromJson, limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

type CohortRow = { name: Id; members: string; createdAt: number };
const COLUMNS = 'name, members, created_at AS createdAt';
const toCohort = (row: CohortRow): CohortRecord => ({ ...row, members: fromJson(row.members) });

/** Throws when the name is taken. */
export const insertCohort = (sql: Sql, { name, members, createdAt }: CohortRecord): void => {
  sql.run('INSERT INTO cohorts VALUES (?, ?, ?)', name, JSON.stringify(members), createdAt);
};

export const cohorts = (sql: Sql) =>
  ({
    createCohort: (cohort, audit) => {
      if (sql.get('SELECT 1 FROM cohorts WHERE name = ?', cohort.name) !== undefined) return 'exists';
      insertCohort(sql, cohort);
      appendAudit(sql, [audit]);
      return 'created';
    },
    getCohort: (name) => {
      const row = sql.get<CohortRow>(`SELECT ${COLUMNS} FROM cohorts WHERE name = ?`, name);
      return row && toCohort(row);
    },
    listCohorts: (page = { limit: 1000 }) =>
      sql
        .all<CohortRow>(
          `SELECT ${COLUMNS} FROM cohorts WHERE name > ? ORDER BY name LIMIT ?`,
          page.after ?? '',
          limitOf(page.limit),
        )
        .map(toCohort),
  }) satisfies Partial<SyncStore>;

import type { Id } from '#shared/ids.ts';
import type { CohortRecord } from '../store.ts';
import { appendAudit } from './audit.ts';
import { fromJson, limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

type CohortRow = { name: Id; members: string; createdAt: number };
const COLUMNS = 'name, members, created_at AS createdAt';
const toCohort = (row: CohortRow): CohortRecord => ({ ...row, members: fromJson(row.members) });

export const cohorts = (sql: Sql) =>
  ({
    createCohort: (cohort, audit) => {
      const created = sql.run(
        'INSERT INTO cohorts VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
        cohort.name,
        JSON.stringify(cohort.members),
        cohort.createdAt,
      );
      if (created === 0) return 'exists';
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

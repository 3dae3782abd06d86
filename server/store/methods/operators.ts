import type { OperatorRecord } from '../operators.ts';
import { limitOf } from '../sql.ts';
import { appendAudit } from './audit.ts';
import type { Methods } from './methods.ts';

const COLUMNS = 'name, role, token_sha256 AS "tokenSha256", created_at AS "createdAt", revoked_at AS "revokedAt"';

export const operators = {
  createOperator: async (sql, operator, audit) => {
    const created = await sql.run(
      `INSERT INTO operators (name, role, token_sha256, created_at, revoked_at)
       VALUES (:name, :role, :tokenSha256, :createdAt, :revokedAt) ON CONFLICT DO NOTHING`,
      operator,
    );
    if (created === 0) return 'exists';
    await appendAudit(sql, [audit]);
    return 'created';
  },
  findOperator: (sql, tokenSha256) =>
    sql.get<OperatorRecord>(
      `SELECT ${COLUMNS} FROM operators WHERE token_sha256 = :tokenSha256 AND revoked_at IS NULL`,
      { tokenSha256 },
    ),
  listOperators: (sql, page = { limit: 1000 }) =>
    sql.all<OperatorRecord>(`SELECT ${COLUMNS} FROM operators WHERE name > :after ORDER BY name LIMIT :limit`, {
      after: page.after ?? '',
      limit: limitOf(page.limit),
    }),
  revokeOperator: async (sql, name, at, audit) => {
    const revoked = await sql.run('UPDATE operators SET revoked_at = :at WHERE name = :name AND revoked_at IS NULL', {
      at,
      name,
    });
    if (revoked === 0) return 'not-found';
    await appendAudit(sql, [audit]);
    return 'revoked';
  },
} satisfies Partial<Methods>;

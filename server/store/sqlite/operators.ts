import type { OperatorRecord } from '../operators.ts';
import { appendAudit } from './audit.ts';
import { limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

const COLUMNS = 'name, role, token_sha256 AS tokenSha256, created_at AS createdAt, revoked_at AS revokedAt';

export const operators = (sql: Sql) =>
  ({
    createOperator: (operator, audit) => {
      const created = sql.run(
        'INSERT INTO operators VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING',
        operator.name,
        operator.role,
        operator.tokenSha256,
        operator.createdAt,
        operator.revokedAt,
      );
      if (created === 0) return 'exists';
      appendAudit(sql, [audit]);
      return 'created';
    },
    findOperator: (tokenSha256) =>
      sql.get<OperatorRecord>(
        `SELECT ${COLUMNS} FROM operators WHERE token_sha256 = ? AND revoked_at IS NULL`,
        tokenSha256,
      ),
    listOperators: (page = { limit: 1000 }) =>
      sql.all<OperatorRecord>(
        `SELECT ${COLUMNS} FROM operators WHERE name > ? ORDER BY name LIMIT ?`,
        page.after ?? '',
        limitOf(page.limit),
      ),
    revokeOperator: (name, at, audit) => {
      const revoked = sql.run('UPDATE operators SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL', at, name);
      if (revoked === 0) return 'not-found';
      appendAudit(sql, [audit]);
      return 'revoked';
    },
  }) satisfies Partial<SyncStore>;

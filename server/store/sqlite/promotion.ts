import type { ReleaseApproval, ReleaseCheck } from '#server/domain/release/promotion.ts';
import type { Id } from '#shared/ids.ts';
import { appendAudit } from './audit.ts';
import type { Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

const CHECKS_MAX = 64;

/** Within the caller's transaction. */
export const forgetEvidence = (sql: Sql, product: Id, version: string): void => {
  sql.run('DELETE FROM release_checks WHERE product = ? AND version = ?', product, version);
  sql.run('DELETE FROM release_approvals WHERE product = ? AND version = ?', product, version);
};

export const promotion = (sql: Sql) =>
  ({
    saveCheck: (word, audit) => {
      const { product, version, check, outcome, link, at, by } = word;
      const known = sql.all<Pick<ReleaseCheck, 'check' | 'outcome' | 'link'>>(
        'SELECT "check", outcome, link FROM release_checks WHERE product = ? AND version = ?',
        product,
        version,
      );
      const before = known.find((candidate) => candidate.check === check);
      if (before?.outcome === outcome && before.link === link) return 'known';
      if (before === undefined && known.length >= CHECKS_MAX) return 'full';
      sql.run(
        'INSERT OR REPLACE INTO release_checks VALUES (?, ?, ?, ?, ?, ?, ?)',
        product,
        version,
        check,
        outcome,
        link,
        at,
        by,
      );
      appendAudit(sql, [audit]);
      return 'saved';
    },
    approveRelease: ({ product, version, channel, by, note, at }, audit) => {
      const approved = sql.run(
        `INSERT INTO release_approvals (product, version, channel, by, note, at) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT DO NOTHING`,
        product,
        version,
        channel,
        by,
        note,
        at,
      );
      if (approved === 0) return 'known';
      appendAudit(sql, [audit]);
      return 'approved';
    },
    getReleaseEvidence: (product, version) => ({
      checks: sql.all<ReleaseCheck>(
        `SELECT product, version, "check", outcome, link, at, by FROM release_checks
         WHERE product = ? AND version = ? ORDER BY "check"`,
        product,
        version,
      ),
      approvals: sql.all<ReleaseApproval>(
        `SELECT product, version, channel, by, note, at FROM release_approvals
         WHERE product = ? AND version = ? ORDER BY n`,
        product,
        version,
      ),
    }),
  }) satisfies Partial<SyncStore>;

import type { ReleaseApproval, ReleaseCheck } from '#server/domain/release/promotion.ts';
import type { Id } from '#shared/ids.ts';
import type { Sql } from '../sql.ts';
import { appendAudit } from './audit.ts';
import type { Methods } from './methods.ts';

const CHECKS_MAX = 64;

/** Within the caller's transaction. */
export const forgetEvidence = async (sql: Sql, product: Id, version: string): Promise<void> => {
  await sql.run('DELETE FROM release_checks WHERE product = :product AND version = :version', { product, version });
  await sql.run('DELETE FROM release_approvals WHERE product = :product AND version = :version', { product, version });
};

export const promotion = {
  saveCheck: async (sql, result, audit) => {
    const { product, version, check, outcome, link } = result;
    const known = await sql.all<Pick<ReleaseCheck, 'check' | 'outcome' | 'link'>>(
      'SELECT "check", outcome, link FROM release_checks WHERE product = :product AND version = :version',
      { product, version },
    );
    const before = known.find((candidate) => candidate.check === check);
    if (before?.outcome === outcome && before.link === link) return 'known';
    if (before === undefined && known.length >= CHECKS_MAX) return 'full';
    await sql.run(
      `INSERT INTO release_checks (product, version, "check", outcome, link, at, by)
       VALUES (:product, :version, :check, :outcome, :link, :at, :by)
       ON CONFLICT (product, version, "check")
       DO UPDATE SET outcome = excluded.outcome, link = excluded.link, at = excluded.at, by = excluded.by`,
      result,
    );
    await appendAudit(sql, [audit]);
    return 'saved';
  },
  approveRelease: async (sql, approval, audit) => {
    const approved = await sql.run(
      `INSERT INTO release_approvals (product, version, channel, by, note, at)
       VALUES (:product, :version, :channel, :by, :note, :at) ON CONFLICT (product, version, channel, by) DO NOTHING`,
      approval,
    );
    if (approved === 0) return 'known';
    await appendAudit(sql, [audit]);
    return 'approved';
  },
  getReleaseEvidence: async (sql, product, version) => ({
    checks: await sql.all<ReleaseCheck>(
      `SELECT product, version, "check", outcome, link, at, by FROM release_checks
       WHERE product = :product AND version = :version ORDER BY "check"`,
      { product, version },
    ),
    approvals: await sql.all<ReleaseApproval>(
      `SELECT product, version, channel, by, note, at FROM release_approvals
       WHERE product = :product AND version = :version ORDER BY n`,
      { product, version },
    ),
  }),
} satisfies Partial<Methods>;

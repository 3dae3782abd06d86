/**
 * Decisions about rollouts with all that they were made from. Records of one rollout repeat each other nearly word for word, so each is
 * compressed with an earlier one as dictionary: what is left is what changed. That one is compressed alone, so that any record
 * can be read with one other, and a new one is taken when too much has changed.
 */
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { auditLine, BY_SERVER } from '#server/domain/audit.ts';
import type { Id, Sha256 } from '#shared/ids.ts';
import type { DecisionToKeep, KeptDecision } from '../decisions.ts';
import type { ShutWindow } from '../rollouts.ts';
import { appendAudit, sizeOfAudit } from './audit.ts';
import { blockersOf } from './priority.ts';
import { fromJson, limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

/** What a decision led to, which only the store knows. `asked`: offers that it allowed. */
type Effect = { asked: number; offered: number; skipped: number; withdrawn: number; shutAbove: ShutWindow[] };

/** A record that needs more than this share of what it would need alone becomes the next dictionary. */
const WORTH = 0.5;
/** How far back the algorithm looks. */
const DICTIONARY_BYTES_MAX = 32_768;
/** Far beyond any: a plan with its bins is a few hundred kilobytes. */
const RECORD_BYTES_MAX = 64 * 1024 * 1024;

type Last = { n: number; base: number; nobody: number };
const lastOf = (sql: Sql, rollout: Id): Last | undefined =>
  sql.get<Last>('SELECT n, base, nobody FROM decisions WHERE rollout = ? ORDER BY n DESC LIMIT 1', rollout);

const dictionaryOf = (record: Buffer): Buffer => record.subarray(-DICTIONARY_BYTES_MAX);
/** Null where somebody or a disk has changed the bytes. */
const inflated = (bytes: Buffer, dictionary?: Buffer): Buffer | null => {
  try {
    return inflateRawSync(bytes, {
      ...(dictionary === undefined ? {} : { dictionary }),
      maxOutputLength: RECORD_BYTES_MAX,
    });
  } catch {
    return null;
  }
};
/** Null where it is not there, or can not be read. */
const baseOf = (sql: Sql, rollout: Id, n: number): Buffer | null => {
  const base = sql.get<{ record: Buffer }>('SELECT record FROM decisions WHERE rollout = ? AND n = ?', rollout, n);
  return base === undefined ? null : inflated(base.record);
};
const inflate = (sql: Sql, rollout: Id, row: { n: number; base: number; record: Buffer }): Buffer | null => {
  if (row.base === row.n) return inflated(row.record);
  const base = baseOf(sql, rollout, row.base);
  return base && inflated(row.record, dictionaryOf(base));
};

const compress = (sql: Sql, rollout: Id, n: number, record: Buffer): { base: number; bytes: Buffer } => {
  const alone = { base: n, bytes: deflateRawSync(record) };
  const last = lastOf(sql, rollout);
  const base = last && baseOf(sql, rollout, last.base);
  // Also where it is damaged: a rollout must not stop because its past can not be read.
  if (last === undefined || !base) return alone;
  const bytes = deflateRawSync(record, { dictionary: dictionaryOf(base) });
  return bytes.length < WORTH * alone.bytes.length ? { base: last.base, bytes } : alone;
};

/**
 * Within the caller's transaction, at its end: `from` is the length of the audit log at its beginning. A decision that only allowed
 * offers is kept when somebody was offered something, or when for the first time nobody was free.
 */
export const keepDecision = (sql: Sql, rollout: Id, decision: DecisionToKeep, effect: Effect, from: number): void => {
  const last = lastOf(sql, rollout);
  const nobody = effect.asked > 0 && effect.offered + effect.skipped === 0;
  if (decision.onlyIfOffered && nobody && last?.nobody === 1) return;
  const n = (last?.n ?? 0) + 1;
  const { base, bytes } = compress(sql, rollout, n, Buffer.from(decision.record));
  sql.run(
    `INSERT INTO decisions (rollout, n, at, sha256, base, record, nobody, offered, skipped, withdrawn, blockers, audit_from, audit_to)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT size FROM audit_head))`,
    rollout,
    n,
    decision.at,
    decision.sha256,
    base,
    bytes,
    nobody ? 1 : 0,
    effect.offered,
    effect.skipped,
    effect.withdrawn,
    JSON.stringify(effect.offered < effect.asked ? blockersOf(sql, rollout, effect.shutAbove) : []),
    from,
  );
  sql.run('UPDATE rollouts SET decided = ? WHERE id = ?', decision.sha256, rollout);
};

const blockersIn = (json: string): KeptDecision['blockers'] | null => {
  try {
    return fromJson<KeptDecision['blockers']>(json);
  } catch {
    return null;
  }
};

type DecisionRow = Omit<KeptDecision, 'record' | 'blockers'> & { base: number; record: Buffer; blockers: string };

/** Over, at rest, and with all of its decisions, more than one. The newest first: those that can not be pruned stay, and would in time be all that is found. */
const PRUNABLE = `
  SELECT newest.rollout, newest.n, newest.base, newest.record FROM rollouts
    JOIN decisions AS newest ON newest.rollout = rollouts.id
      AND newest.n = (SELECT max(n) FROM decisions WHERE rollout = rollouts.id)
  WHERE state IN ('completed', 'aborted') AND next_tick_at IS NULL AND newest.at < ? AND newest.n > 1
    AND newest.n = (SELECT count(*) FROM decisions WHERE rollout = rollouts.id)
  ORDER BY newest.at DESC LIMIT ?`;
type Prunable = { rollout: Id; n: number; base: number; record: Buffer };

/** The newest one can be read without any other from then on. How many went. */
const prune = (sql: Sql, { rollout, n, base, record }: Prunable, now: number): number => {
  const bytes = inflate(sql, rollout, { n, base, record });
  if (bytes === null) return 0;
  const { sha256 } = sql.get<{ sha256: Sha256 }>(
    'SELECT sha256 FROM decisions WHERE rollout = ? AND n = ?',
    rollout,
    n - 1,
  )!;
  const line = sizeOfAudit(sql);
  const about = { rollout, decisions: n - 1, newest: sha256 };
  appendAudit(sql, [auditLine({ at: now, by: BY_SERVER, kind: 'decisions-pruned', ...about })]);
  sql.run(
    'UPDATE decisions SET base = n, record = ?, pruned = ? WHERE rollout = ? AND n = ?',
    deflateRawSync(bytes),
    line,
    rollout,
    n,
  );
  return sql.run('DELETE FROM decisions WHERE rollout = ? AND n < ?', rollout, n);
};

export const decisions = (sql: Sql) =>
  ({
    pruneDecisions: (before, now, limit) =>
      sql.all<Prunable>(PRUNABLE, before, limitOf(limit)).reduce((sum, newest) => sum + prune(sql, newest, now), 0),
    listDecisions: (rollout, page) =>
      sql
        .all<DecisionRow>(
          `SELECT n, at, sha256, base, record, offered, skipped, withdrawn, blockers, audit_from AS auditFrom, audit_to AS auditTo, pruned
           FROM decisions WHERE rollout = ? AND n < ? ORDER BY n DESC LIMIT ?`,
          rollout,
          page.before ?? Number.MAX_SAFE_INTEGER,
          limitOf(page.limit),
        )
        .map(({ base, record, blockers, ...row }) => {
          const text = inflate(sql, rollout, { n: row.n, base, record })?.toString();
          const had = blockersIn(blockers);
          return text === undefined || had === null
            ? { ...row, record: null, blockers: [] }
            : { ...row, record: text, blockers: had };
        }),
  }) satisfies Partial<SyncStore>;

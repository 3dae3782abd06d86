/**
 * Decisions about rollouts with all that they were made from. Records of one rollout repeat each other nearly word for
 * word, so each is compressed with an earlier one as dictionary: what is left is what changed. That one is compressed
 * alone, so that any record can be read with one other, and a new one is taken when too much has changed.
 */
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { BY_SERVER } from '#server/domain/audit.ts';
import type { Id, Sha256 } from '#shared/ids.ts';
import type { DecisionToKeep, KeptDecision } from '../decisions.ts';
import type { ShutWindow } from '../rollouts.ts';
import { fromJson, limitOf, type Sql } from '../sql.ts';
import { appendEvents, sizeOfAudit } from './audit.ts';
import type { Methods } from './methods.ts';
import { blockersOf } from './priority.ts';

/** What a decision led to, which only the store knows. `asked`: offers that it allowed. */
type Effect = { asked: number; offered: number; skipped: number; withdrawn: number; shutAbove: ShutWindow[] };

/** A record that needs more than this share of what it would need alone becomes the next dictionary. */
const WORTH = 0.5;
/** How far back the algorithm looks. */
const DICTIONARY_BYTES_MAX = 32_768;
/** Far beyond any: a plan with its bins is a few hundred kilobytes. */
const RECORD_BYTES_MAX = 64 * 1024 * 1024;

type Last = { n: number; base: number; noneFree: number };
const lastOf = (sql: Sql, rollout: Id): Promise<Last | undefined> =>
  sql.get<Last>(
    'SELECT n, base, nobody AS "noneFree" FROM decisions WHERE rollout = :rollout ORDER BY n DESC LIMIT 1',
    { rollout },
  );

const dictionaryOf = (record: Buffer): Buffer => record.subarray(-DICTIONARY_BYTES_MAX);
/** Null where a person or a disk has changed the bytes. */
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
/** Null where it is missing, or cannot be read. */
const baseOf = async (sql: Sql, rollout: Id, n: number): Promise<Buffer | null> => {
  const base = await sql.get<{ record: Buffer }>('SELECT record FROM decisions WHERE rollout = :rollout AND n = :n', {
    rollout,
    n,
  });
  return base === undefined ? null : inflated(base.record);
};
type Compressed = { n: number; base: number; record: Buffer };
const inflate = async (sql: Sql, rollout: Id, row: Compressed): Promise<Buffer | null> => {
  if (row.base === row.n) return inflated(row.record);
  const base = await baseOf(sql, rollout, row.base);
  return base && inflated(row.record, dictionaryOf(base));
};

const compress = async (
  sql: Sql,
  { rollout, n, last, record }: { rollout: Id; n: number; last: Last | undefined; record: Buffer },
): Promise<{ base: number; bytes: Buffer }> => {
  const alone = { base: n, bytes: deflateRawSync(record) };
  const base = last && (await baseOf(sql, rollout, last.base));
  // Also where it is damaged: a rollout must not stop because its past cannot be read.
  if (last === undefined || !base) return alone;
  const bytes = deflateRawSync(record, { dictionary: dictionaryOf(base) });
  return bytes.length < WORTH * alone.bytes.length ? { base: last.base, bytes } : alone;
};

/**
 * Within the caller's transaction, at its end: `auditFrom` is the length of the audit log at its beginning. A decision
 * that only allowed offers is kept when a device was offered something, or when for the first time no device was free.
 */
export const keepDecision = async (
  sql: Sql,
  rollout: Id,
  decision: DecisionToKeep,
  effect: Effect,
  auditFrom: number,
): Promise<void> => {
  const last = await lastOf(sql, rollout);
  const noneFree = effect.asked > 0 && effect.offered + effect.skipped === 0;
  if (decision.onlyIfOffered && noneFree && last?.noneFree === 1) return;
  const n = (last?.n ?? 0) + 1;
  const { base, bytes } = await compress(sql, { rollout, n, last, record: Buffer.from(decision.record) });
  const blockers = effect.offered < effect.asked ? await blockersOf(sql, rollout, effect.shutAbove) : [];
  const { at, sha256 } = decision;
  const { offered, skipped, withdrawn } = effect;
  await sql.run(
    `INSERT INTO decisions (rollout, n, at, sha256, base, record, nobody, offered, skipped, withdrawn, blockers, audit_from,
       audit_to)
     VALUES (:rollout, :n, :at, :sha256, :base, :bytes, :noneFree, :offered, :skipped, :withdrawn, :blockers, :auditFrom,
       (SELECT size FROM audit_head))`,
    {
      rollout,
      n,
      at,
      sha256,
      base,
      bytes,
      noneFree,
      offered,
      skipped,
      withdrawn,
      auditFrom,
      blockers: JSON.stringify(blockers),
    },
  );
  await sql.run('UPDATE rollouts SET decided = :sha256 WHERE id = :rollout', { sha256, rollout });
};

const blockersIn = (json: string): KeptDecision['blockers'] | null => {
  try {
    return fromJson<KeptDecision['blockers']>(json);
  } catch {
    return null;
  }
};

/**
 * Over, at rest, and with all of its decisions, more than one. The newest first: those that cannot be pruned stay, and
 * would in time be all that is found.
 */
const PRUNABLE = `
  SELECT newest.rollout, newest.n, newest.base, newest.record FROM rollouts
    JOIN decisions AS newest ON newest.rollout = rollouts.id
      AND newest.n = (SELECT max(n) FROM decisions WHERE rollout = rollouts.id)
  WHERE state IN ('completed', 'aborted') AND next_tick_at IS NULL AND newest.at < :before AND newest.n > 1
    AND newest.n = (SELECT count(*) FROM decisions WHERE rollout = rollouts.id)
  ORDER BY newest.at DESC LIMIT :limit`;
type Prunable = Compressed & { rollout: Id };

/** The newest one can be read without any other from then on. How many went. */
const prune = async (sql: Sql, newest: Prunable, now: number): Promise<number> => {
  const { rollout, n } = newest;
  const bytes = await inflate(sql, rollout, newest);
  if (bytes === null) return 0;
  const before = await sql.get<{ sha256: Sha256 }>('SELECT sha256 FROM decisions WHERE rollout = :rollout AND n = :n', {
    rollout,
    n: n - 1,
  });
  const pruned = await sizeOfAudit(sql);
  const about = { rollout, decisions: n - 1, newest: before!.sha256 };
  await appendEvents(sql, [{ at: now, by: BY_SERVER, kind: 'decisions-pruned', ...about }]);
  await sql.run(
    'UPDATE decisions SET base = n, record = :record, pruned = :pruned WHERE rollout = :rollout AND n = :n',
    { record: deflateRawSync(bytes), pruned, rollout, n },
  );
  return sql.run('DELETE FROM decisions WHERE rollout = :rollout AND n < :n', { rollout, n });
};

type DecisionRow = Omit<KeptDecision, 'record' | 'blockers'> & { base: number; record: Buffer; blockers: string };
const toDecision = async (sql: Sql, rollout: Id, row: DecisionRow): Promise<KeptDecision> => {
  const { base, record, blockers, ...kept } = row;
  const bytes = await inflate(sql, rollout, { n: kept.n, base, record });
  const had = blockersIn(blockers);
  return bytes === null || had === null
    ? { ...kept, record: null, blockers: [] }
    : { ...kept, record: bytes.toString(), blockers: had };
};

export const decisions = {
  pruneDecisions: async (sql, before, now, limit) => {
    let gone = 0;
    for (const newest of await sql.all<Prunable>(PRUNABLE, { before, limit: limitOf(limit) }))
      gone += await prune(sql, newest, now);
    return gone;
  },
  listDecisions: async (sql, rollout, page) => {
    const rows = await sql.all<DecisionRow>(
      `SELECT n, at, sha256, base, record, offered, skipped, withdrawn, blockers, audit_from AS "auditFrom",
         audit_to AS "auditTo", pruned
       FROM decisions WHERE rollout = :rollout AND n < :before ORDER BY n DESC LIMIT :limit`,
      { rollout, before: page.before ?? Number.MAX_SAFE_INTEGER, limit: limitOf(page.limit) },
    );
    const found: KeptDecision[] = [];
    for (const row of rows) found.push(await toDecision(sql, rollout, row));
    return found;
  },
} satisfies Partial<Methods>;

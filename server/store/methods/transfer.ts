import { inBatches } from '#shared/batches.ts';
import type { Sha256 } from '#shared/ids.ts';
import { idList, limitOf, rowList, type Sql } from '../sql.ts';
import type { ChunkPlace, PackRecord } from '../transfer.ts';
import type { Methods } from './methods.ts';

const CHUNKS_MAX = 10_000;
const CHUNKS_AT_ONCE = 1_000;

type Queries = { artifacts: string; indexes: string; needed: string; referenced: string };
/** Digests of what bundles need. Packs can be made again. */
const queriesOf = ({ dialect }: Sql): Queries => {
  const parts = (list: string): string => `bundles, ${dialect.members('manifest', list)} AS part`;
  const artifacts = `SELECT part.value ->> 'sha256' AS sha256 FROM ${parts('artifacts')}`;
  const indexes = `SELECT part.value -> 'chunks' ->> 'index' AS sha256 FROM ${parts('artifacts')}
    WHERE part.value -> 'chunks' ->> 'index' IS NOT NULL`;
  const needed = `${artifacts} UNION ${indexes} UNION SELECT part.value ->> 'sha256' FROM ${parts('attachments')}`;
  return { artifacts, indexes, needed, referenced: `${needed} UNION SELECT sha256 FROM packs` };
};

const digestsOf = async (sql: Sql, query: string): Promise<Sha256[]> => {
  const rows = await sql.all<{ sha256: Sha256 }>(`${query} ORDER BY sha256`);
  return rows.map(({ sha256 }) => sha256);
};
export const neededObjects = (sql: Sql): Promise<Sha256[]> => digestsOf(sql, queriesOf(sql).needed);

const PACK = `to_index AS "to", nullif(from_index, '') AS "from", level, sha256, bytes, made_at AS "madeAt", used_at AS "usedAt"`;
/** 32 bytes instead of 64 digits: there is a row for each chunk of each artifact. */
const blob = (sha256: string): Uint8Array => Buffer.from(sha256, 'hex');

export const transfer = {
  listReferencedObjects: (sql) => digestsOf(sql, queriesOf(sql).referenced),
  saveChunks: async (sql, artifact, chunks, at) => {
    if (chunks.length > CHUNKS_MAX) throw new RangeError(`at most ${CHUNKS_MAX} chunks at once`);
    const row = await sql.get<{ n: number }>(
      `INSERT INTO chunked (artifact, saved_at) VALUES (:artifact, :at)
       ON CONFLICT (artifact) DO UPDATE SET saved_at = excluded.saved_at RETURNING n`,
      { artifact, at },
    );
    const { bytesOf, rows } = sql.dialect;
    for (const batch of inBatches(chunks, CHUNKS_AT_ONCE))
      await sql.run(
        `INSERT INTO chunks (sha256, n, start, bytes) SELECT ${bytesOf('cut.sha256')}, CAST(:n AS BIGINT), cut.start, cut.bytes
         FROM ${rows('cut', { sha256: 'text', start: 'integer', bytes: 'integer' })}
         WHERE true ON CONFLICT (sha256, n) DO NOTHING`,
        { cut: rowList(batch.map(({ sha256, offset, bytes }) => ({ sha256, start: offset, bytes }))), n: row!.n },
      );
  },
  findChunk: (sql, sha256) =>
    sql.get<ChunkPlace>(
      `SELECT artifact, start AS "offset", bytes FROM chunks JOIN chunked USING (n) WHERE sha256 = :sha256
       ORDER BY n DESC LIMIT 1`,
      { sha256: blob(sha256) },
    ),
  sweepChunks: async (sql, before) => {
    const lost = `SELECT n FROM chunked WHERE saved_at < :before AND artifact NOT IN (${queriesOf(sql).artifacts})`;
    await sql.run(`DELETE FROM chunks WHERE n IN (${lost})`, { before });
    return sql.run(`DELETE FROM chunked WHERE n IN (${lost})`, { before });
  },
  listRunning: (sql, product, compatible, limit) =>
    sql.all<{ manifest: Sha256; devices: number }>(
      `SELECT running_manifest AS manifest, count(*) AS devices FROM devices
       WHERE state = 'accepted' AND running_manifest IN
         (SELECT manifest_sha256 FROM bundles WHERE product = :product AND compatible = :compatible)
       GROUP BY running_manifest ORDER BY devices DESC, manifest LIMIT :limit`,
      { product, compatible, limit: limitOf(limit) },
    ),
  savePack: async (sql, { from, ...pack }) => {
    await sql.run(
      `INSERT INTO packs (to_index, from_index, level, sha256, bytes, made_at, used_at)
       VALUES (:to, :from, :level, :sha256, :bytes, :madeAt, :usedAt)
       ON CONFLICT (to_index, from_index) DO UPDATE SET level = excluded.level, sha256 = excluded.sha256,
         bytes = excluded.bytes, made_at = excluded.made_at, used_at = excluded.used_at`,
      { ...pack, from: from ?? '' },
    );
  },
  listPacks: (sql, to) =>
    sql.all<PackRecord>(
      `SELECT ${PACK} FROM packs WHERE to_index IN (${sql.dialect.list('to')}) ORDER BY to_index, from_index`,
      { to: idList(to) },
    ),
  notePackUsed: async (sql, { to, from }, at) => {
    await sql.run('UPDATE packs SET used_at = :at WHERE to_index = :to AND from_index = :from', {
      to,
      from: from ?? '',
      at,
    });
  },
  evictPacks: async (sql, bytesMax) => {
    const { indexes, referenced } = queriesOf(sql);
    const evicted = await sql.all<{ sha256: Sha256 }>(
      `WITH gone AS (
         SELECT to_index, from_index FROM packs WHERE to_index NOT IN (${indexes})
       ), aged AS (
         SELECT to_index, from_index, sum(bytes) OVER (ORDER BY used_at DESC, to_index, from_index) AS total
         FROM packs WHERE (to_index, from_index) NOT IN (SELECT to_index, from_index FROM gone)
       )
       DELETE FROM packs WHERE (to_index, from_index) IN
         (SELECT to_index, from_index FROM gone UNION ALL SELECT to_index, from_index FROM aged WHERE total > :bytesMax)
       RETURNING sha256`,
      { bytesMax },
    );
    const kept = new Set(await digestsOf(sql, referenced));
    return evicted.map(({ sha256 }) => sha256).filter((sha256) => !kept.has(sha256));
  },
} satisfies Partial<Methods>;

import type { Sha256 } from '#shared/ids.ts';
import type { ChunkPlace, PackRecord } from '../transfer.ts';
import { idList, limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

const CHUNKS_MAX = 10_000;
const ARTIFACTS = `SELECT part.value ->> 'sha256' AS sha256 FROM bundles, json_each(manifest, '$.artifacts') AS part`;
const INDEXES = `SELECT part.value ->> '$.chunks.index' AS sha256 FROM bundles, json_each(manifest, '$.artifacts') AS part
  WHERE part.value ->> '$.chunks.index' IS NOT NULL`;
const NEEDED = `${ARTIFACTS} UNION ${INDEXES}
  UNION SELECT part.value ->> 'sha256' FROM bundles, json_each(manifest, '$.attachments') AS part`;
/** What bundles need. Without packs, which can be made again. */
export const neededObjects = (sql: Sql): Sha256[] =>
  sql.all<{ sha256: Sha256 }>(`${NEEDED} ORDER BY sha256`).map((row) => row.sha256);
const REFERENCED = `${NEEDED} UNION SELECT sha256 FROM packs`;

const PACK = `to_index AS "to", nullif(from_index, '') AS "from", level, sha256, bytes, made_at AS madeAt, used_at AS usedAt`;
/** 32 bytes instead of 64 digits: there is a row for each chunk of each artifact. */
const blob = (sha256: string): Uint8Array => Buffer.from(sha256, 'hex');

export const transfer = (sql: Sql) =>
  ({
    listReferencedObjects: () => sql.all<{ sha256: Sha256 }>(`${REFERENCED} ORDER BY sha256`).map((row) => row.sha256),
    saveChunks: (artifact, chunks, at) => {
      if (chunks.length > CHUNKS_MAX) throw new RangeError(`at most ${CHUNKS_MAX} chunks at once`);
      sql.run(
        'INSERT INTO chunked (artifact, saved_at) VALUES (?, ?) ON CONFLICT DO UPDATE SET saved_at = excluded.saved_at',
        artifact,
        at,
      );
      const { n } = sql.get<{ n: number }>('SELECT n FROM chunked WHERE artifact = ?', artifact)!;
      for (const { sha256, offset, bytes } of chunks) {
        sql.run('INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?)', blob(sha256), n, offset, bytes);
      }
    },
    findChunk: (sha256) =>
      sql.get<ChunkPlace>(
        'SELECT artifact, start AS offset, bytes FROM chunks JOIN chunked USING (n) WHERE sha256 = ? ORDER BY n DESC LIMIT 1',
        blob(sha256),
      ),
    sweepChunks: (before) => {
      const lost = `SELECT n FROM chunked WHERE saved_at < ? AND artifact NOT IN (${ARTIFACTS})`;
      sql.run(`DELETE FROM chunks WHERE n IN (${lost})`, before);
      return sql.run(`DELETE FROM chunked WHERE n IN (${lost})`, before);
    },
    listRunning: (product, compatible, limit) =>
      sql.all<{ manifest: Sha256; devices: number }>(
        `SELECT running_manifest AS manifest, count(*) AS devices FROM devices
         WHERE state = 'accepted' AND running_manifest IN
           (SELECT manifest_sha256 FROM bundles WHERE product = ? AND compatible = ?)
         GROUP BY running_manifest ORDER BY devices DESC, manifest LIMIT ?`,
        product,
        compatible,
        limitOf(limit),
      ),
    savePack: ({ to, from, level, sha256, bytes, madeAt, usedAt }) => {
      sql.run(
        'INSERT OR REPLACE INTO packs VALUES (?, ?, ?, ?, ?, ?, ?)',
        to,
        from ?? '',
        level,
        sha256,
        bytes,
        madeAt,
        usedAt,
      );
    },
    listPacks: (to) =>
      sql.all<PackRecord>(
        `SELECT ${PACK} FROM packs WHERE to_index IN (SELECT value FROM json_each(?)) ORDER BY to_index, from_index`,
        idList(to),
      ),
    notePackUsed: ({ to, from }, at) => {
      sql.run('UPDATE packs SET used_at = ? WHERE to_index = ? AND from_index = ?', at, to, from ?? '');
    },
    evictPacks: (bytesMax) => {
      const evicted = sql.all<{ sha256: Sha256 }>(
        `WITH gone AS (
           SELECT to_index, from_index FROM packs WHERE to_index NOT IN (${INDEXES})
         ), aged AS (
           SELECT to_index, from_index, sum(bytes) OVER (ORDER BY used_at DESC, to_index, from_index) AS total
           FROM packs WHERE (to_index, from_index) NOT IN (SELECT * FROM gone)
         )
         DELETE FROM packs WHERE (to_index, from_index) IN
           (SELECT * FROM gone UNION ALL SELECT to_index, from_index FROM aged WHERE total > ?)
         RETURNING sha256`,
        bytesMax,
      );
      const kept = new Set(sql.all<{ sha256: Sha256 }>(REFERENCED).map(({ sha256 }) => sha256));
      return evicted.map(({ sha256 }) => sha256).filter((sha256) => !kept.has(sha256));
    },
  }) satisfies Partial<SyncStore>;

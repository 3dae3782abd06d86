import { type Id, releaseRef } from '#shared/ids.ts';
import type { BundleRecord, ReleaseRecord, ReleaseState } from '../catalogue.ts';
import { appendAudit } from './audit.ts';
import { indexChanges } from './changes.ts';
import { forgetEvidence } from './promotion.ts';
import { fromJson, limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

type BundleRow = Omit<BundleRecord, 'manifest'> & { manifest: string };
type ReleaseRow = { product: Id; version: string; progress: string; acceptedAt: number };
const BUNDLE = `product, version, compatible, path, manifest_sha256 AS manifestSha256, manifest_bytes AS manifestBytes,
  manifest, metadata_version AS metadataVersion, accepted_at AS acceptedAt, accepted_by AS acceptedBy`;
const RELEASE = 'product, version, progress, accepted_at AS acceptedAt';
const toBundle = (row: BundleRow): BundleRecord => ({ ...row, manifest: fromJson(row.manifest) });
/** One form for a state, so that equal states are equal texts whatever order their fields came in. */
const progressText = (progress: ReleaseState): string => JSON.stringify(progress, Object.keys(progress).sort());

const insertBundle = (sql: Sql, bundle: BundleRecord): boolean =>
  sql.run(
    'INSERT INTO bundles VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING',
    bundle.product,
    bundle.version,
    bundle.compatible,
    bundle.path,
    bundle.manifestSha256,
    bundle.manifestBytes,
    JSON.stringify(bundle.manifest),
    bundle.metadataVersion,
    bundle.acceptedAt,
    bundle.acceptedBy,
  ) === 1;

export const releases = (sql: Sql) => {
  const toRelease = (row: ReleaseRow): ReleaseRecord => ({
    ...row,
    progress: fromJson(row.progress),
    bundles: sql
      .all<BundleRow>(
        `SELECT ${BUNDLE} FROM bundles WHERE product = ? AND version = ? ORDER BY compatible`,
        row.product,
        row.version,
      )
      .map(toBundle),
  });
  const isTaken = (bundle: BundleRecord): boolean =>
    sql.get(
      `SELECT 1 FROM bundles WHERE product = ? AND version = ? AND compatible = ? OR manifest_sha256 = ?
       UNION ALL SELECT 1 FROM releases WHERE product = ? AND version = ? AND progress <> ? LIMIT 1`,
      bundle.product,
      bundle.version,
      bundle.compatible,
      bundle.manifestSha256,
      bundle.product,
      bundle.version,
      progressText({ state: 'accepted' }),
    ) !== undefined;

  return {
    acceptBundles: (bundles, metadata, audit) => {
      const newest = sql.get<{ version: number | null }>(
        'SELECT max(version) AS version FROM delegations WHERE product = ?',
        metadata.product,
      );
      if (metadata.version !== (newest?.version ?? 0) + 1) return 'metadata-conflict';
      // All is checked before anything is written: an answer, unlike an error, does not undo the transaction.
      const keys = new Set(
        bundles.map((bundle) => `${releaseRef(bundle.product, bundle.version)}/${bundle.compatible}`),
      );
      if (keys.size !== bundles.length || bundles.some(isTaken)) return 'taken';
      sql.run('INSERT INTO delegations VALUES (?, ?, ?)', metadata.product, metadata.version, metadata.document);
      for (const bundle of bundles) {
        sql.run(
          'INSERT INTO releases (product, version, progress, accepted_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING',
          bundle.product,
          bundle.version,
          progressText({ state: 'accepted' }),
          bundle.acceptedAt,
        );
        forgetEvidence(sql, bundle.product, bundle.version);
        if (!insertBundle(sql, bundle)) throw new Error(`two bundles share the manifest ${bundle.manifestSha256}`);
        indexChanges(sql, bundle);
      }
      appendAudit(sql, audit);
      return 'accepted';
    },
    getRelease: (product, version) => {
      const row = sql.get<ReleaseRow>(
        `SELECT ${RELEASE} FROM releases WHERE product = ? AND version = ?`,
        product,
        version,
      );
      return row && toRelease(row);
    },
    listReleases: (filter, page) =>
      sql
        .all<ReleaseRow>(
          `SELECT ${RELEASE} FROM releases WHERE product = ifnull(?, product)
           AND (? IS NULL OR n < (SELECT n FROM releases WHERE product || '@' || version = ?)) ORDER BY n DESC LIMIT ?`,
          filter.product ?? null,
          page.after ?? null,
          page.after ?? null,
          limitOf(page.limit),
        )
        .map(toRelease),
    saveRelease: (product, version, from, to, audit) => {
      const saved = sql.run(
        'UPDATE releases SET progress = ? WHERE product = ? AND version = ? AND progress = ?',
        progressText(to),
        product,
        version,
        progressText(from),
      );
      if (saved === 0) return 'conflict';
      appendAudit(sql, [audit]);
      return 'saved';
    },
    findBundle: (manifestSha256) => {
      const row = sql.get<BundleRow>(`SELECT ${BUNDLE} FROM bundles WHERE manifest_sha256 = ?`, manifestSha256);
      return row && toBundle(row);
    },
  } satisfies Partial<SyncStore>;
};

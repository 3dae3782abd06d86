import { type Id, releaseRef } from '#shared/ids.ts';
import type { BundleRecord, ReleaseRecord, ReleaseState } from '../catalogue.ts';
import { fromJson, limitOf, type Sql } from '../sql.ts';
import { appendAudit } from './audit.ts';
import { indexChanges } from './changes.ts';
import type { Methods } from './methods.ts';
import { forgetEvidence } from './promotion.ts';

type BundleRow = Omit<BundleRecord, 'manifest'> & { manifest: string };
type ReleaseRow = { product: Id; version: string; progress: string; acceptedAt: number };
const BUNDLE = `product, version, compatible, path, manifest_sha256 AS "manifestSha256", manifest_bytes AS "manifestBytes",
  manifest, metadata_version AS "metadataVersion", accepted_at AS "acceptedAt", accepted_by AS "acceptedBy"`;
const RELEASE = 'product, version, progress, accepted_at AS "acceptedAt"';
const toBundle = (row: BundleRow): BundleRecord => ({ ...row, manifest: fromJson(row.manifest) });
/** One form for a state, so that equal states are equal texts whatever order their fields came in. */
const progressText = (progress: ReleaseState): string => JSON.stringify(progress, Object.keys(progress).sort());
const ACCEPTED = progressText({ state: 'accepted' });

const toRelease = async (sql: Sql, row: ReleaseRow): Promise<ReleaseRecord> => {
  const bundles = await sql.all<BundleRow>(
    `SELECT ${BUNDLE} FROM bundles WHERE product = :product AND version = :version ORDER BY compatible`,
    { product: row.product, version: row.version },
  );
  return { ...row, progress: fromJson(row.progress), bundles: bundles.map(toBundle) };
};

const insertBundle = async (sql: Sql, { manifest, ...bundle }: BundleRecord): Promise<boolean> => {
  const inserted = await sql.run(
    `INSERT INTO bundles (product, version, compatible, path, manifest_sha256, manifest_bytes, manifest, metadata_version,
       accepted_at, accepted_by)
     VALUES (:product, :version, :compatible, :path, :manifestSha256, :manifestBytes, :manifest, :metadataVersion,
       :acceptedAt, :acceptedBy)
     ON CONFLICT DO NOTHING`,
    { ...bundle, manifest: JSON.stringify(manifest) },
  );
  return inserted === 1;
};

const isTaken = async (sql: Sql, { product, version, compatible, manifestSha256 }: BundleRecord): Promise<boolean> => {
  const found = await sql.get(
    `SELECT 1 FROM bundles
     WHERE product = :product AND version = :version AND compatible = :compatible OR manifest_sha256 = :manifestSha256
     UNION ALL SELECT 1 FROM releases WHERE product = :product AND version = :version AND progress <> :accepted LIMIT 1`,
    { product, version, compatible, manifestSha256, accepted: ACCEPTED },
  );
  return found !== undefined;
};
const isAnyTaken = async (sql: Sql, bundles: readonly BundleRecord[]): Promise<boolean> => {
  const keys = new Set(bundles.map((bundle) => `${releaseRef(bundle.product, bundle.version)}/${bundle.compatible}`));
  if (keys.size !== bundles.length) return true;
  for (const bundle of bundles) if (await isTaken(sql, bundle)) return true;
  return false;
};

export const releases = {
  acceptBundles: async (sql, bundles, metadata, audit) => {
    const newest = await sql.get<{ version: number | null }>(
      'SELECT max(version) AS version FROM delegations WHERE product = :product',
      { product: metadata.product },
    );
    if (metadata.version !== (newest?.version ?? 0) + 1) return 'metadata-conflict';
    // All is checked before anything is written: an answer, unlike an error, does not undo the transaction.
    if (await isAnyTaken(sql, bundles)) return 'taken';
    await sql.run(
      'INSERT INTO delegations (product, version, document) VALUES (:product, :version, :document)',
      metadata,
    );
    for (const bundle of bundles) {
      const { product, version, acceptedAt } = bundle;
      await sql.run(
        `INSERT INTO releases (product, version, progress, accepted_at) VALUES (:product, :version, :accepted, :acceptedAt)
         ON CONFLICT (product, version) DO NOTHING`,
        { product, version, accepted: ACCEPTED, acceptedAt },
      );
      await forgetEvidence(sql, product, version);
      if (!(await insertBundle(sql, bundle)))
        throw new Error(`two bundles share the manifest ${bundle.manifestSha256}`);
      await indexChanges(sql, bundle);
    }
    await appendAudit(sql, audit);
    return 'accepted';
  },
  getRelease: async (sql, product, version) => {
    const row = await sql.get<ReleaseRow>(
      `SELECT ${RELEASE} FROM releases WHERE product = :product AND version = :version`,
      { product, version },
    );
    return row && toRelease(sql, row);
  },
  listReleases: async (sql, filter, page) => {
    const rows = await sql.all<ReleaseRow>(
      `SELECT ${RELEASE} FROM releases WHERE product = coalesce(:product, product)
         AND (:after IS NULL OR n < (SELECT n FROM releases WHERE product || '@' || version = :after))
       ORDER BY n DESC LIMIT :limit`,
      { product: filter.product ?? null, after: page.after ?? null, limit: limitOf(page.limit) },
    );
    const found: ReleaseRecord[] = [];
    for (const row of rows) found.push(await toRelease(sql, row));
    return found;
  },
  saveRelease: async (sql, product, version, from, to, audit) => {
    const saved = await sql.run(
      'UPDATE releases SET progress = :to WHERE product = :product AND version = :version AND progress = :from',
      { product, version, from: progressText(from), to: progressText(to) },
    );
    if (saved === 0) return 'conflict';
    await appendAudit(sql, [audit]);
    return 'saved';
  },
  findBundle: async (sql, manifestSha256) => {
    const row = await sql.get<BundleRow>(`SELECT ${BUNDLE} FROM bundles WHERE manifest_sha256 = :manifestSha256`, {
      manifestSha256,
    });
    return row && toBundle(row);
  },
} satisfies Partial<Methods>;

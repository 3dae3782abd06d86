/**
 * Which bundles contain which change: an index over what manifests say, filled in the transaction that accepts a
 * bundle.
 */
import type { Sha256 } from '#shared/ids.ts';
import type { BundleRecord, BundleWithChange, DeviceWithChange } from '../catalogue.ts';
import { fromJson, idList, limitOf, type Sql } from '../sql.ts';
import type { Methods } from './methods.ts';

const BUNDLES_MAX = 1_000;

/** Within the caller's transaction, after the bundle itself. */
export const indexChanges = async (sql: Sql, { manifest, manifestSha256 }: BundleRecord): Promise<void> => {
  await sql.run(
    `INSERT INTO bundle_changes (change, manifest_sha256) SELECT value, :manifestSha256 FROM (${sql.dialect.list('changes')}) AS changes
     WHERE true ON CONFLICT (change, manifest_sha256) DO NOTHING`,
    { changes: idList(manifest.changes), manifestSha256 },
  );
};

type BundleRow = Omit<BundleWithChange, 'progress' | 'devices'> & { progress: string; manifestSha256: Sha256 };

export const changes = {
  findChange: async (sql, change) => {
    const bundles = await sql.all<BundleRow>(
      `SELECT product, version, compatible, manifest_sha256 AS "manifestSha256", progress
       FROM bundle_changes JOIN bundles USING (manifest_sha256) JOIN releases USING (product, version)
       WHERE change = :change ORDER BY releases.n DESC, compatible LIMIT :limit`,
      { change, limit: BUNDLES_MAX },
    );
    // One walk over the fleet, however many bundles contain the change.
    const running = await sql.all<{ manifestSha256: Sha256; devices: number }>(
      `SELECT running_manifest AS "manifestSha256", count(*) AS devices FROM devices
       WHERE state = 'accepted'
         AND running_manifest IN (SELECT manifest_sha256 FROM bundle_changes WHERE change = :change)
       GROUP BY running_manifest`,
      { change },
    );
    const devices = new Map(running.map((row) => [row.manifestSha256, row.devices]));
    return bundles.map(({ manifestSha256, progress, ...bundle }) => ({
      ...bundle,
      progress: fromJson(progress),
      devices: devices.get(manifestSha256) ?? 0,
    }));
  },
  listDevicesWithChange: async (sql, change, page) => {
    const rows = await sql.all<Omit<DeviceWithChange, 'online'> & { online: number }>(
      `SELECT devices.id AS device, product, version, bundles.compatible AS compatible, online
       FROM devices JOIN bundles ON manifest_sha256 = running_manifest
       WHERE devices.state = 'accepted' AND devices.id > :after AND manifest_sha256 IN
         (SELECT manifest_sha256 FROM bundle_changes WHERE change = :change)
       ORDER BY devices.id LIMIT :limit`,
      { change, after: page.after ?? '', limit: limitOf(page.limit) },
    );
    return rows.map((row) => ({ ...row, online: row.online === 1 }));
  },
} satisfies Partial<Methods>;

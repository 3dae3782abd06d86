/** Which bundles contain which change: an index over what manifests say, filled in the transaction that accepts a bundle. */
import type { Sha256 } from '#shared/ids.ts';
import type { BundleRecord, BundleWithChange, DeviceWithChange } from '../catalogue.ts';
import { fromJson, limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

const BUNDLES_MAX = 1_000;

/** Within the caller's transaction, after the bundle itself. */
export const indexChanges = (sql: Sql, { manifest, manifestSha256 }: BundleRecord): void => {
  for (const change of manifest.changes) {
    sql.run('INSERT OR IGNORE INTO bundle_changes (change, manifest_sha256) VALUES (?, ?)', change, manifestSha256);
  }
};

type BundleRow = Omit<BundleWithChange, 'progress' | 'devices'> & { progress: string; manifestSha256: Sha256 };

export const changes = (sql: Sql) =>
  ({
    findChange: (change) => {
      const bundles = sql.all<BundleRow>(
        `SELECT product, version, compatible, manifest_sha256 AS manifestSha256, progress
         FROM bundle_changes JOIN bundles USING (manifest_sha256) JOIN releases USING (product, version)
         WHERE change = ? ORDER BY releases.n DESC, compatible LIMIT ?`,
        change,
        BUNDLES_MAX,
      );
      // One walk over the fleet, however many bundles contain the change.
      const running = sql.all<{ manifestSha256: Sha256; devices: number }>(
        `SELECT running_manifest AS manifestSha256, count(*) AS devices FROM devices
         WHERE state = 'accepted'
           AND running_manifest IN (SELECT manifest_sha256 FROM bundle_changes WHERE change = ?)
         GROUP BY running_manifest`,
        change,
      );
      const devices = new Map(running.map((row) => [row.manifestSha256, row.devices]));
      return bundles.map(({ manifestSha256, progress, ...bundle }) => ({
        ...bundle,
        progress: fromJson(progress),
        devices: devices.get(manifestSha256) ?? 0,
      }));
    },
    listDevicesWithChange: (change, page) =>
      sql
        .all<Omit<DeviceWithChange, 'online'> & { online: number }>(
          `SELECT devices.id AS device, product, version, bundles.compatible AS compatible, online
           FROM devices JOIN bundles ON manifest_sha256 = running_manifest
           WHERE devices.state = 'accepted' AND devices.id > ? AND manifest_sha256 IN
             (SELECT manifest_sha256 FROM bundle_changes WHERE change = ?)
           ORDER BY devices.id LIMIT ?`,
          page.after ?? '',
          change,
          limitOf(page.limit),
        )
        .map((row) => ({ ...row, online: row.online === 1 })),
  }) satisfies Partial<SyncStore>;

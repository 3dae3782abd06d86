/** The last lines of devices that failed: bounded for each device when they come, and all together now and then. */
import type { LogPiece } from '#shared/messages.ts';
import { fromJson, limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

export const deviceLogs = (sql: Sql) =>
  ({
    saveDeviceLogs: (logs, deviceBytesMax) => {
      for (const { device, receivedAt, ...piece } of logs) {
        const { id, deployment } = piece;
        const json = JSON.stringify(piece);
        sql.run(
          `INSERT INTO device_logs (device, id, received_at, bytes, deployment, piece)
           SELECT id, ?, ?, ?, ?, ? FROM devices WHERE id = ? ON CONFLICT DO NOTHING`,
          id,
          receivedAt,
          Buffer.byteLength(json),
          deployment,
          json,
          device,
        );
      }
      for (const device of new Set(logs.map((log) => log.device))) {
        sql.run(
          `DELETE FROM device_logs WHERE n IN (
             SELECT n FROM (SELECT n, sum(bytes) OVER (ORDER BY n DESC) AS total FROM device_logs WHERE device = ?)
             WHERE total > ?)`,
          device,
          deviceBytesMax,
        );
      }
    },
    listDeviceLogs: (device, { deployment }, page) =>
      sql
        .all<{ n: number; receivedAt: number; piece: string }>(
          `SELECT n, received_at AS receivedAt, piece FROM device_logs
           WHERE device = ? AND n < ? AND (? IS NULL OR deployment = ?) ORDER BY n DESC LIMIT ?`,
          device,
          page.before ?? Number.MAX_SAFE_INTEGER,
          deployment ?? null,
          deployment ?? null,
          limitOf(page.limit),
        )
        .map(({ n, receivedAt, piece }) => ({ n, device, receivedAt, ...fromJson<LogPiece>(piece) })),
    trimDeviceLogs: (before, bytesMax) =>
      sql.run('DELETE FROM device_logs WHERE received_at < ?', before) +
      sql.run(
        `DELETE FROM device_logs WHERE n IN (
           SELECT n FROM (SELECT n, sum(bytes) OVER (ORDER BY received_at DESC, n DESC) AS total FROM device_logs)
           WHERE total > ?)`,
        bytesMax,
      ),
  }) satisfies Partial<SyncStore>;

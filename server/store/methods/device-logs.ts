/** The last lines of devices that failed: bounded for each device when they come, and all together now and then. */
import type { LogPiece } from '#shared/messages.ts';
import { fromJson, limitOf } from '../sql.ts';
import type { Methods } from './methods.ts';

export const deviceLogs = {
  saveDeviceLogs: async (sql, logs, deviceBytesMax) => {
    // One by one: each may be large.
    for (const { device, receivedAt, ...piece } of logs) {
      const json = JSON.stringify(piece);
      await sql.run(
        `INSERT INTO device_logs (device, id, received_at, bytes, deployment, piece)
         SELECT devices.id, :id, CAST(:receivedAt AS BIGINT), CAST(:bytes AS BIGINT), :deployment, :piece
         FROM devices WHERE devices.id = :device ON CONFLICT (device, id) DO NOTHING`,
        { device, receivedAt, id: piece.id, deployment: piece.deployment, bytes: Buffer.byteLength(json), piece: json },
      );
    }
    for (const device of new Set(logs.map((log) => log.device)))
      await sql.run(
        `DELETE FROM device_logs WHERE n IN (
           SELECT n FROM (SELECT n, sum(bytes) OVER (ORDER BY n DESC) AS total FROM device_logs WHERE device = :device) AS kept
           WHERE total > :deviceBytesMax)`,
        { device, deviceBytesMax },
      );
  },
  listDeviceLogs: async (sql, device, { deployment }, page) => {
    const rows = await sql.all<{ n: number; receivedAt: number; piece: string }>(
      `SELECT n, received_at AS "receivedAt", piece FROM device_logs
       WHERE device = :device AND n < :before AND (:deployment IS NULL OR deployment = :deployment)
       ORDER BY n DESC LIMIT :limit`,
      {
        device,
        before: page.before ?? Number.MAX_SAFE_INTEGER,
        deployment: deployment ?? null,
        limit: limitOf(page.limit),
      },
    );
    return rows.map(({ n, receivedAt, piece }) => ({ n, device, receivedAt, ...fromJson<LogPiece>(piece) }));
  },
  trimDeviceLogs: async (sql, before, bytesMax) => {
    const old = await sql.run('DELETE FROM device_logs WHERE received_at < :before', { before });
    const beyond = await sql.run(
      `DELETE FROM device_logs WHERE n IN (
         SELECT n FROM (SELECT n, sum(bytes) OVER (ORDER BY received_at DESC, n DESC) AS total FROM device_logs) AS kept
         WHERE total > :bytesMax)`,
      { bytesMax },
    );
    return old + beyond;
  },
} satisfies Partial<Methods>;

import { SHARED_MS } from '#server/domain/device/boots.ts';
import type { Id } from '#shared/ids.ts';
import type { DeviceRecord, DeviceState, EnrolmentTokenRecord } from '../devices.ts';
import { appendAudit } from './audit.ts';
import { withdrawDevice, withdrawReplaced } from './offers.ts';
import { fromJson, idList, limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

type DeviceRow = Omit<DeviceRecord, 'tags' | 'attributes' | 'running' | 'online' | 'healthy' | 'keySharedAt'> & {
  tags: string;
  attributes: string;
  running: string | null;
  online: number;
  healthy: number | null;
  keySharedAt: number | null;
};
const COLUMNS = `id, public_key AS publicKey, state, compatible, tags, attributes, agent, running, floor, boot, online,
  healthy, enrolled_at AS enrolledAt, last_seen_at AS lastSeenAt, desired_seq AS desiredSeq, report_seq AS reportSeq,
  deployment, key_shared_at AS keySharedAt`;
const toDevice = ({ keySharedAt, ...row }: DeviceRow): DeviceRecord => ({
  ...row,
  ...(keySharedAt === null ? {} : { keySharedAt }),
  tags: fromJson(row.tags),
  attributes: fromJson(row.attributes),
  running: row.running === null ? null : fromJson(row.running),
  online: row.online === 1,
  healthy: row.healthy === null ? null : row.healthy === 1,
});

const readDevice = (sql: Sql, id: Id): DeviceRecord | undefined => {
  const row = sql.get<DeviceRow>(`SELECT ${COLUMNS} FROM devices WHERE id = ?`, id);
  return row && toDevice(row);
};

type UsableToken = Pick<EnrolmentTokenRecord, 'tags' | 'device'>;
/** The token if this device may use it now: known, not used, not expired, not meant for another. */
const readToken = (sql: Sql, tokenSha256: string, device: Id, now: number): UsableToken | undefined => {
  const row = sql.get<{ tags: string; device: Id | null }>(
    `SELECT tags, device FROM enrolment_tokens
     WHERE token_sha256 = ? AND used_by IS NULL AND expires_at > ? AND (device IS NULL OR device = ?)`,
    tokenSha256,
    now,
    device,
  );
  return row && { ...row, tags: fromJson(row.tags) };
};
const useToken = (sql: Sql, tokenSha256: string, device: Id): void => {
  sql.run('UPDATE enrolment_tokens SET used_by = ? WHERE token_sha256 = ?', device, tokenSha256);
};

/** What the device said of itself is not true of what takes its place. */
const forgetReports = (sql: Sql, id: Id): void => {
  sql.run(
    `UPDATE devices SET report_seq = 0, agent = NULL, running = NULL, floor = 0, boot = NULL, healthy = NULL
     WHERE id = ?`,
    id,
  );
};

/** Another key in the place of the old one: a device that was wiped, or another one that took its post. */
const replace = (
  sql: Sql,
  known: DeviceRecord,
  device: Parameters<SyncStore['enrolDevice']>[0],
  tags: Record<string, string>,
): void => {
  sql.run(
    `UPDATE devices SET public_key = ?, state = 'accepted', compatible = ?, tags = ?, attributes = ?, enrolled_at = ?,
       last_seen_at = NULL, online = 0, key_shared_at = NULL WHERE id = ?`,
    device.publicKey,
    device.compatible,
    JSON.stringify({ ...known.tags, ...tags }),
    JSON.stringify(device.attributes),
    device.enrolledAt,
    device.id,
  );
  forgetReports(sql, device.id);
};

const enrol =
  (sql: Sql): SyncStore['enrolDevice'] =>
  (device, tokenSha256, now, audit, replacement) => {
    const known = readDevice(sql, device.id);
    const token = tokenSha256 === null ? undefined : readToken(sql, tokenSha256, device.id, now);
    if (known !== undefined && known.publicKey !== device.publicKey) {
      if (token?.device !== device.id || tokenSha256 === null || replacement === undefined)
        return { result: 'id-taken' };
      replace(sql, known, device, token.tags);
      useToken(sql, tokenSha256, device.id);
      appendAudit(sql, [replacement]);
      withdrawReplaced(sql, device.id, device.compatible !== known.compatible, now);
      return { result: 'replaced', device: readDevice(sql, device.id)! };
    }
    if (known !== undefined) {
      // The answer to its first enrolment may have been lost, so a used token is no reason to refuse a known key.
      // A device that waits and comes back with a good token is let in by it.
      if (known.state !== 'pending' || token === undefined || tokenSha256 === null)
        return { result: 'known', device: known };
      const tags = { ...known.tags, ...token.tags };
      sql.run("UPDATE devices SET state = 'accepted', tags = ? WHERE id = ?", JSON.stringify(tags), device.id);
    } else {
      if (tokenSha256 !== null && token === undefined) return { result: 'token-invalid' };
      sql.run(
        `INSERT INTO devices (id, public_key, state, compatible, tags, attributes, enrolled_at)
         VALUES (?, ?, ?, ?, ?, ?, ?)`,
        device.id,
        device.publicKey,
        token === undefined ? 'pending' : 'accepted',
        device.compatible,
        JSON.stringify(token?.tags ?? {}),
        JSON.stringify(device.attributes),
        device.enrolledAt,
      );
    }
    if (tokenSha256 !== null) useToken(sql, tokenSha256, device.id);
    appendAudit(sql, [audit]);
    return { result: 'enrolled', device: readDevice(sql, device.id)! };
  };

export const devices = (sql: Sql) =>
  ({
    createEnrolmentTokens: (tokens, audit) => {
      for (const token of tokens)
        sql.run(
          'INSERT INTO enrolment_tokens VALUES (?, ?, ?, ?, ?)',
          token.tokenSha256,
          token.expiresAt,
          token.device,
          JSON.stringify(token.tags),
          token.usedBy,
        );
      appendAudit(sql, [audit]);
    },
    enrolDevice: enrol(sql),
    forgetReports: (device) => forgetReports(sql, device),
    getDevice: (id) => readDevice(sql, id),
    getDevices: (ids) =>
      sql
        .all<DeviceRow>(
          `SELECT ${COLUMNS} FROM devices WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id`,
          idList(ids),
        )
        .map(toDevice),
    listDevices: (filter, page) => {
      const after = page.after ?? '';
      const rows =
        filter.state === undefined
          ? sql.all<DeviceRow>(
              `SELECT ${COLUMNS} FROM devices WHERE id > ? ORDER BY id LIMIT ?`,
              after,
              limitOf(page.limit),
            )
          : sql.all<DeviceRow>(
              `SELECT ${COLUMNS} FROM devices WHERE state = ? AND id > ? ORDER BY id LIMIT ?`,
              filter.state,
              after,
              limitOf(page.limit),
            );
      return rows.map(toDevice);
    },
    setDeviceState: (id, to, now, audit) => {
      if (sql.run('UPDATE devices SET state = ? WHERE id = ?', to, id) === 0) return undefined;
      if (to === 'accepted') sql.run('UPDATE devices SET key_shared_at = NULL WHERE id = ?', id);
      appendAudit(sql, [audit]);
      if (to === 'rejected') {
        withdrawDevice(sql, id, now);
        // Made while it was trusted: whoever holds one must not come back under its id.
        sql.run('UPDATE enrolment_tokens SET expires_at = 0 WHERE device = ? AND used_by IS NULL', id);
      }
      return readDevice(sql, id);
    },
    setDeviceTags: (id, tags, audit) => {
      if (sql.run('UPDATE devices SET tags = ? WHERE id = ?', JSON.stringify(tags), id) === 0) return undefined;
      appendAudit(sql, [audit]);
      return readDevice(sql, id);
    },
    setOnline: (changes) => {
      for (const { device, online, boot, at } of changes)
        sql.run(
          `UPDATE devices SET online = ?, boot = ifnull(?, boot), last_seen_at = max(ifnull(last_seen_at, 0), ?)
           WHERE id = ?`,
          online ? 1 : 0,
          boot,
          at,
          device,
        );
    },
    noteRefusal: (device, code) => {
      const known = readDevice(sql, device)?.attributes;
      if (known === undefined || (known['refused'] ?? null) === code) return;
      const { refused: _, ...others } = known;
      const attributes = code === null ? others : { ...others, refused: code };
      sql.run('UPDATE devices SET attributes = ? WHERE id = ?', JSON.stringify(attributes), device);
    },
    noteSharedKey: (device, at, audit) => {
      const known = readDevice(sql, device);
      if (known?.state !== 'accepted') return 'unknown';
      sql.run('UPDATE devices SET key_shared_at = ? WHERE id = ?', at, device);
      if (known.keySharedAt !== undefined && Math.abs(at - known.keySharedAt) < SHARED_MS) return 'goes-on';
      appendAudit(sql, [audit]);
      return 'began';
    },
    setAllOffline: () => {
      sql.run('UPDATE devices SET online = 0 WHERE online = 1');
    },
    countDevices: () =>
      sql
        .all<{ state: DeviceState; online: number; devices: number }>(
          'SELECT state, online, count(*) AS devices FROM devices GROUP BY state, online ORDER BY state, online',
        )
        .map((row) => ({ ...row, online: row.online === 1 })),
  }) satisfies Partial<SyncStore>;

import { SHARED_MS } from '#server/domain/device/boots.ts';
import type { Id, Sha256 } from '#shared/ids.ts';
import type { DeviceRecord, DeviceState, EnrolmentTokenRecord } from '../devices.ts';
import { fromJson, idList, limitOf, rowList, type Sql, type Values } from '../sql.ts';
import { appendAudit } from './audit.ts';
import type { Methods } from './methods.ts';
import { withdrawDevice, withdrawReplaced } from './moves.ts';

export type DeviceRow = Omit<DeviceRecord, 'tags' | 'attributes' | 'running' | 'online' | 'healthy' | 'keySharedAt'> & {
  tags: string;
  attributes: string;
  running: string | null;
  online: number;
  healthy: number | null;
  keySharedAt: number | null;
};
export const DEVICE_COLUMNS = `id, public_key AS "publicKey", state, compatible, tags, attributes, agent, running, floor, boot, online,
  healthy, enrolled_at AS "enrolledAt", last_seen_at AS "lastSeenAt", desired_seq AS "desiredSeq", report_seq AS "reportSeq",
  deployment, key_shared_at AS "keySharedAt"`;
export const toDevice = ({ keySharedAt, ...row }: DeviceRow): DeviceRecord => ({
  ...row,
  ...(keySharedAt === null ? {} : { keySharedAt }),
  tags: fromJson(row.tags),
  attributes: fromJson(row.attributes),
  running: row.running === null ? null : fromJson(row.running),
  online: row.online === 1,
  healthy: row.healthy === null ? null : row.healthy === 1,
});

/** `rest`: everything behind `FROM devices`. */
const selectDevices = async (sql: Sql, rest: string, values: Values): Promise<DeviceRecord[]> =>
  (await sql.all<DeviceRow>(`SELECT ${DEVICE_COLUMNS} FROM devices ${rest}`, values)).map(toDevice);
const readDevice = async (sql: Sql, id: Id): Promise<DeviceRecord | undefined> =>
  (await selectDevices(sql, 'WHERE id = :id', { id }))[0];

type UsableToken = Pick<EnrolmentTokenRecord, 'tokenSha256' | 'tags' | 'device'>;
/** The token if this device may use it now: known, not used, not expired, not meant for another. */
const readToken = async (sql: Sql, tokenSha256: Sha256, device: Id, now: number): Promise<UsableToken | undefined> => {
  const row = await sql.get<{ tags: string; device: Id | null }>(
    `SELECT tags, device FROM enrolment_tokens
     WHERE token_sha256 = :tokenSha256 AND used_by IS NULL AND expires_at > :now AND (device IS NULL OR device = :device)`,
    { tokenSha256, now, device },
  );
  return row && { ...row, tokenSha256, tags: fromJson(row.tags) };
};
const useToken = async (sql: Sql, { tokenSha256 }: UsableToken, device: Id): Promise<void> => {
  await sql.run('UPDATE enrolment_tokens SET used_by = :device WHERE token_sha256 = :tokenSha256', {
    device,
    tokenSha256,
  });
};

/** What the device said of itself is not true of what takes its place. */
const forgetReports = async (sql: Sql, id: Id): Promise<void> => {
  await sql.run(
    `UPDATE devices SET report_seq = 0, agent = NULL, running = NULL, floor = 0, boot = NULL, healthy = NULL
     WHERE id = :id`,
    { id },
  );
};

type Enrolling = Parameters<Methods['enrolDevice']>[1];

/** Another key in the place of the old one: a device that was wiped, or another one that takes its place. */
const replace = async (sql: Sql, known: DeviceRecord, device: Enrolling, tags: DeviceRecord['tags']): Promise<void> => {
  await sql.run(
    `UPDATE devices SET public_key = :publicKey, state = 'accepted', compatible = :compatible, tags = :tags,
       attributes = :attributes, enrolled_at = :enrolledAt, last_seen_at = NULL, online = 0, key_shared_at = NULL
     WHERE id = :id`,
    { ...device, tags: JSON.stringify({ ...known.tags, ...tags }), attributes: JSON.stringify(device.attributes) },
  );
  await forgetReports(sql, device.id);
};

const insertDevice = async (sql: Sql, device: Enrolling, token: UsableToken | undefined): Promise<void> => {
  await sql.run(
    `INSERT INTO devices (id, public_key, state, compatible, tags, attributes, enrolled_at)
     VALUES (:id, :publicKey, :state, :compatible, :tags, :attributes, :enrolledAt)`,
    {
      ...device,
      state: token === undefined ? 'pending' : 'accepted',
      tags: JSON.stringify(token?.tags ?? {}),
      attributes: JSON.stringify(device.attributes),
    },
  );
};

const enrolDevice: Methods['enrolDevice'] = async (sql, device, tokenSha256, now, audit, replacement) => {
  const { id } = device;
  const known = await readDevice(sql, id);
  const token = tokenSha256 === null ? undefined : await readToken(sql, tokenSha256, id, now);
  if (known !== undefined && known.publicKey !== device.publicKey) {
    if (token?.device !== id || replacement === undefined) return { result: 'id-taken' };
    await replace(sql, known, device, token.tags);
    await useToken(sql, token, id);
    await appendAudit(sql, [replacement]);
    await withdrawReplaced(sql, id, device.compatible !== known.compatible, now);
    return { result: 'replaced', device: (await readDevice(sql, id))! };
  }
  if (known !== undefined) {
    // The answer to its first enrolment may have been lost, so a used token is no reason to refuse a known key.
    // A device that waits and comes back with a good token is let in by it.
    if (known.state !== 'pending' || token === undefined) return { result: 'known', device: known };
    const tags = JSON.stringify({ ...known.tags, ...token.tags });
    await sql.run("UPDATE devices SET state = 'accepted', tags = :tags WHERE id = :id", { tags, id });
  } else {
    if (tokenSha256 !== null && token === undefined) return { result: 'token-invalid' };
    await insertDevice(sql, device, token);
  }
  if (token !== undefined) await useToken(sql, token, id);
  await appendAudit(sql, [audit]);
  return { result: 'enrolled', device: (await readDevice(sql, id))! };
};

/** Each device once, as it is after the last of its changes. */
const lastOfEach = <T extends { device: Id }>(changes: readonly T[], join: (before: T, after: T) => T): T[] => {
  const last = new Map<Id, T>();
  for (const change of changes) {
    const before = last.get(change.device);
    last.set(change.device, before === undefined ? change : join(before, change));
  }
  return [...last.values()];
};

export const devices = {
  createEnrolmentTokens: async (sql, tokens, audit) => {
    for (const token of tokens)
      await sql.run(
        `INSERT INTO enrolment_tokens (token_sha256, expires_at, device, tags, used_by)
         VALUES (:tokenSha256, :expiresAt, :device, :tags, :usedBy)`,
        { ...token, tags: JSON.stringify(token.tags) },
      );
    await appendAudit(sql, [audit]);
  },
  enrolDevice,
  forgetReports,
  getDevice: readDevice,
  getDevices: (sql, ids) =>
    selectDevices(sql, `WHERE id IN (${sql.dialect.list('ids')}) ORDER BY id`, { ids: idList(ids) }),
  listDevices: (sql, { state }, page) =>
    selectDevices(
      sql,
      `WHERE ${state === undefined ? '' : 'state = :state AND '}id > :after ORDER BY id LIMIT :limit`,
      { after: page.after ?? '', limit: limitOf(page.limit), ...(state === undefined ? {} : { state }) },
    ),
  setDeviceState: async (sql, id, to, now, audit) => {
    if ((await sql.run('UPDATE devices SET state = :to WHERE id = :id', { to, id })) === 0) return undefined;
    if (to === 'accepted') await sql.run('UPDATE devices SET key_shared_at = NULL WHERE id = :id', { id });
    await appendAudit(sql, [audit]);
    if (to === 'rejected') {
      await withdrawDevice(sql, id, now);
      // Made while it was trusted: one that holds such a token must not come back under its id.
      await sql.run('UPDATE enrolment_tokens SET expires_at = 0 WHERE device = :id AND used_by IS NULL', { id });
    }
    return readDevice(sql, id);
  },
  setDeviceTags: async (sql, id, tags, audit) => {
    const saved = await sql.run('UPDATE devices SET tags = :tags WHERE id = :id', { tags: JSON.stringify(tags), id });
    if (saved === 0) return undefined;
    await appendAudit(sql, [audit]);
    return readDevice(sql, id);
  },
  setOnline: async (sql, changes) => {
    const last = lastOfEach(changes, (before, after) => ({
      ...after,
      boot: after.boot ?? before.boot,
      at: Math.max(before.at, after.at),
    }));
    const { larger, rows } = sql.dialect;
    await sql.run(
      `UPDATE devices SET online = change.online, boot = coalesce(change.boot, devices.boot),
         last_seen_at = ${larger('coalesce(last_seen_at, 0)', 'change.at')}
       FROM ${rows('change', { device: 'text', online: 'integer', boot: 'text', at: 'integer' })}
       WHERE devices.id = change.device`,
      { change: rowList(last.map((one) => ({ ...one, online: one.online ? 1 : 0 }))) },
    );
  },
  noteRefusal: async (sql, device, code) => {
    const known = (await readDevice(sql, device))?.attributes;
    if (known === undefined || (known['refused'] ?? null) === code) return;
    const { refused: _, ...others } = known;
    const attributes = JSON.stringify(code === null ? others : { ...others, refused: code });
    await sql.run('UPDATE devices SET attributes = :attributes WHERE id = :device', { attributes, device });
  },
  noteSharedKey: async (sql, device, at, audit) => {
    const known = await readDevice(sql, device);
    if (known?.state !== 'accepted') return 'unknown';
    await sql.run('UPDATE devices SET key_shared_at = :at WHERE id = :device', { at, device });
    if (known.keySharedAt !== undefined && Math.abs(at - known.keySharedAt) < SHARED_MS) return 'goes-on';
    await appendAudit(sql, [audit]);
    return 'began';
  },
  setAllOffline: async (sql) => {
    await sql.run('UPDATE devices SET online = 0 WHERE online = 1');
  },
  countDevices: async (sql) => {
    const rows = await sql.all<{ state: DeviceState; online: number; devices: number }>(
      'SELECT state, online, count(*) AS devices FROM devices GROUP BY state, online ORDER BY state, online',
    );
    return rows.map((row) => ({ ...row, online: row.online === 1 }));
  },
} satisfies Partial<Methods>;

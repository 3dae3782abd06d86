/** The audit log and the right edge of its Merkle tree, moved together. */
import { type AuditEvent, auditLine } from '#server/domain/audit.ts';
import { inBatches } from '#shared/batches.ts';
import { appendLeaf, leafHash } from '#shared/trust/merkle.ts';
import type { AuditEntry, AuditHead, AuditLine } from '../audit.ts';
import { fromJson, limitOf, rowList, type Sql } from '../sql.ts';
import type { Methods } from './methods.ts';

const LINES_AT_ONCE = 500;

/** Appends lines within the caller's transaction. */
export const appendAudit = async (sql: Sql, lines: readonly AuditLine[]): Promise<void> => {
  for (const batch of inBatches(lines, LINES_AT_ONCE)) await append(sql, batch);
};
export const appendEvents = (sql: Sql, events: readonly AuditEvent[]): Promise<void> =>
  appendAudit(sql, events.map(auditLine));

const append = async (sql: Sql, lines: readonly AuditLine[]): Promise<void> => {
  const { rows } = sql.dialect;
  let head = await readHead(sql);
  const entries: { n: number; payload: string }[] = [];
  const about: { n: number; device: string }[] = [];
  for (const { payload } of lines) {
    entries.push({ n: head.size, payload });
    for (const device of devicesNamed(payload)) about.push({ n: head.size, device });
    head = appendLeaf(head, leafHash(payload));
  }
  await sql.run(
    `INSERT INTO audit (n, payload) SELECT n, payload FROM ${rows('entries', { n: 'integer', payload: 'text' })}`,
    { entries: rowList(entries) },
  );
  if (about.length > 0)
    await sql.run(
      `INSERT INTO audit_devices (device, n) SELECT device, n FROM ${rows('about', { n: 'integer', device: 'text' })}
       WHERE true ON CONFLICT (device, n) DO NOTHING`,
      { about: rowList(about) },
    );
  await sql.run('UPDATE audit_head SET size = :size, subtrees = :subtrees', {
    size: head.size,
    subtrees: JSON.stringify(head.subtrees),
  });
};

export const sizeOfAudit = async (sql: Sql): Promise<number> =>
  (await sql.get<{ size: number }>('SELECT size FROM audit_head'))!.size;
export const readHead = async (sql: Sql): Promise<AuditHead> => {
  const row = (await sql.get<{ size: number; subtrees: string }>('SELECT size, subtrees FROM audit_head'))!;
  return { size: row.size, subtrees: fromJson(row.subtrees) };
};

/** The devices that a line is about: every event of domain/audit.ts says so in `device` or `devices`. */
const devicesNamed = (payload: string): string[] => {
  const event = fromJson<{ device?: unknown; devices?: unknown }>(payload);
  const many = Array.isArray(event.devices) ? event.devices : [];
  return [event.device, ...many].filter((device) => typeof device === 'string');
};

export const audit = {
  appendAudit,
  readAudit: (sql, after, limit) =>
    sql.all<AuditEntry>('SELECT n AS "index", payload FROM audit WHERE n > :after ORDER BY n LIMIT :limit', {
      after,
      limit: limitOf(limit),
    }),
  getAuditHead: readHead,
  listDeviceAudit: (sql, device, page) =>
    sql.all<AuditEntry>(
      `SELECT audit.n AS "index", payload FROM audit_devices JOIN audit USING (n)
       WHERE device = :device AND audit_devices.n < :before AND (:kind IS NULL OR payload ->> 'kind' = :kind)
       ORDER BY audit_devices.n DESC LIMIT :limit`,
      { device, before: page.before ?? Number.MAX_SAFE_INTEGER, kind: page.kind ?? null, limit: limitOf(page.limit) },
    ),
} satisfies Partial<Methods>;

/** The audit log and the right edge of its Merkle tree, moved together. */
import { appendLeaf, leafHash } from '#shared/trust/merkle.ts';
import type { AuditEntry, AuditHead, AuditLine } from '../audit.ts';
import { fromJson, limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

/** Appends lines within the caller's transaction. */
export const appendAudit = (sql: Sql, lines: readonly AuditLine[]): void => {
  if (lines.length === 0) return;
  let head = readHead(sql);
  for (const { payload } of lines) {
    const index = head.size;
    sql.run('INSERT INTO audit (n, payload) VALUES (?, ?)', index, payload);
    for (const device of devicesNamed(payload))
      sql.run('INSERT OR IGNORE INTO audit_devices (device, n) VALUES (?, ?)', device, index);
    head = appendLeaf(head, leafHash(payload));
  }
  sql.run('UPDATE audit_head SET size = ?, subtrees = ?', head.size, JSON.stringify(head.subtrees));
};

export const sizeOfAudit = (sql: Sql): number => sql.get<{ size: number }>('SELECT size FROM audit_head')!.size;
const readHead = (sql: Sql): AuditHead => {
  const row = sql.get<{ size: number; subtrees: string }>('SELECT size, subtrees FROM audit_head')!;
  return { size: row.size, subtrees: fromJson(row.subtrees) };
};

/** The devices that a line is about: every event of domain/audit.ts says so in `device` or `devices`. */
const devicesNamed = (payload: string): string[] => {
  const event = fromJson<{ device?: unknown; devices?: unknown }>(payload);
  const many = Array.isArray(event.devices) ? event.devices : [];
  return [event.device, ...many].filter((device) => typeof device === 'string');
};

export const audit = (sql: Sql) =>
  ({
    appendAudit: (lines) => appendAudit(sql, lines),
    readAudit: (after, limit) =>
      sql.all<AuditEntry>(
        'SELECT n AS "index", payload FROM audit WHERE n > ? ORDER BY n LIMIT ?',
        after,
        limitOf(limit),
      ),
    getAuditHead: () => readHead(sql),
    listDeviceAudit: (device, page) =>
      sql.all<AuditEntry>(
        `SELECT audit.n AS "index", payload FROM audit_devices JOIN audit USING (n)
         WHERE device = ? AND audit_devices.n < ? AND (? IS NULL OR payload ->> 'kind' = ?) ORDER BY audit_devices.n DESC LIMIT ?`,
        device,
        page.before ?? Number.MAX_SAFE_INTEGER,
        page.kind ?? null,
        page.kind ?? null,
        limitOf(page.limit),
      ),
  }) satisfies Partial<SyncStore>;

/** What each device should run, and the work that tells it so: recorded together with the decision, done afterwards. */
import type { Id } from '#shared/ids.ts';
import type { Desired, Instruction } from '#shared/messages.ts';
import type { DesiredRecord, OutboxEffect, OutboxItem } from '../desired.ts';
import { fromJson, idList, limitOf, type Sql } from './sql.ts';
import type { SyncStore } from './sync.ts';

/** Bounds an outbox item (its batch is signed at once) and an audit line. */
const BATCH_DEVICES = 500;
export const inBatches = <T>(items: readonly T[]): T[][] =>
  Array.from({ length: Math.ceil(items.length / BATCH_DEVICES) }, (_, index) =>
    items.slice(index * BATCH_DEVICES, (index + 1) * BATCH_DEVICES),
  );

/** Gives each device its next desired document, unsigned as yet, and asks for them to be signed and sent. Within the caller's transaction. */
export const instruct = (
  sql: Sql,
  instructions: readonly { device: Id; instruction: Instruction }[],
  now: number,
): void => {
  for (const { device, instruction } of instructions) {
    sql.run('UPDATE devices SET desired_seq = desired_seq + 1 WHERE id = ?', device);
    sql.run(
      `INSERT INTO desired SELECT id, desired_seq, ?, NULL, ? FROM devices WHERE id = ?
       ON CONFLICT DO UPDATE SET seq = excluded.seq, instruction = excluded.instruction, document = NULL,
         at = excluded.at`,
      JSON.stringify(instruction),
      now,
      device,
    );
  }
  for (const batch of inBatches(instructions)) {
    const effect: OutboxEffect = { kind: 'publish-desired', devices: batch.map(({ device }) => device) };
    sql.run('INSERT INTO outbox (effect) VALUES (?)', JSON.stringify(effect));
  }
};

type DesiredRow = { device: Id; seq: number; instruction: string; document: string | null; at: number };
const toDesired = (row: DesiredRow): DesiredRecord => ({
  ...row,
  instruction: fromJson<Instruction>(row.instruction),
  document: row.document === null ? null : fromJson<Desired>(row.document),
});

export const desired = (sql: Sql) =>
  ({
    getDesired: (device) => {
      const row = sql.get<DesiredRow>('SELECT * FROM desired WHERE device = ?', device);
      return row && toDesired(row);
    },
    getDesiredMany: (devices) =>
      sql
        .all<DesiredRow>(
          'SELECT * FROM desired WHERE device IN (SELECT value FROM json_each(?)) ORDER BY device',
          idList(devices),
        )
        .map(toDesired),
    saveDesiredDocuments: (documents) => {
      for (const { device, seq, document } of documents)
        sql.run('UPDATE desired SET document = ? WHERE device = ? AND seq = ?', JSON.stringify(document), device, seq);
    },
    skipDesiredSeqs: (count) => {
      sql.run('UPDATE devices SET desired_seq = desired_seq + ?', count);
      sql.run('UPDATE desired SET seq = seq + ?, document = NULL', count);
    },
    takeOutbox: (limit) =>
      sql
        .all<{ id: number; effect: string }>('SELECT id, effect FROM outbox ORDER BY id LIMIT ?', limitOf(limit))
        .map((row): OutboxItem => ({ id: row.id, effect: fromJson(row.effect) })),
    finishOutbox: (ids) => {
      sql.run('DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?))', idList(ids));
    },
  }) satisfies Partial<SyncStore>;

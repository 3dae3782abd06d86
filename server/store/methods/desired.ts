/** What each device should run, and the work that tells it so: recorded together with the decision, done afterwards. */
import { inBatches } from '#shared/batches.ts';
import type { Id } from '#shared/ids.ts';
import type { Desired, Instruction } from '#shared/messages.ts';
import type { DesiredRecord, OutboxEffect, OutboxItem } from '../desired.ts';
import { fromJson, idList, limitOf, rowList, type Sql } from '../sql.ts';
import type { Methods } from './methods.ts';

/** Bounds an outbox item: its batch is signed at once. */
const BATCH_DEVICES = 500;

/**
 * Each device once. Within the caller's transaction: its next desired document, unsigned as yet, and a request that it
 * is signed and sent.
 */
export const instruct = async (
  sql: Sql,
  instructions: readonly { device: Id; instruction: Instruction }[],
  now: number,
): Promise<void> => {
  for (const batch of inBatches(instructions, BATCH_DEVICES)) await instructBatch(sql, batch, now);
};

const instructBatch = async (
  sql: Sql,
  instructions: readonly { device: Id; instruction: Instruction }[],
  now: number,
): Promise<void> => {
  const { list, rows } = sql.dialect;
  const devices = instructions.map(({ device }) => device);
  await sql.run(`UPDATE devices SET desired_seq = desired_seq + 1 WHERE id IN (${list('devices')})`, {
    devices: idList(devices),
  });
  await sql.run(
    `INSERT INTO desired (device, seq, instruction, document, at)
     SELECT device, desired_seq, told.instruction, NULL, CAST(:now AS BIGINT)
     FROM ${rows('told', { device: 'text', instruction: 'json' })} JOIN devices ON devices.id = device
     WHERE true
     ON CONFLICT (device) DO UPDATE SET seq = excluded.seq, instruction = excluded.instruction, document = NULL, at = excluded.at`,
    { told: rowList(instructions), now },
  );
  const effect: OutboxEffect = { kind: 'publish-desired', devices };
  await sql.run('INSERT INTO outbox (effect) VALUES (:effect)', { effect: JSON.stringify(effect) });
};

/** The same to all of them. */
export const instructAll = (sql: Sql, devices: readonly Id[], instruction: Instruction, now: number): Promise<void> =>
  instruct(
    sql,
    devices.map((device) => ({ device, instruction })),
    now,
  );

type DesiredRow = { device: Id; seq: number; instruction: string; document: string | null; at: number };
const COLUMNS = 'device, seq, instruction, document, at';
const toDesired = (row: DesiredRow): DesiredRecord => ({
  ...row,
  instruction: fromJson<Instruction>(row.instruction),
  document: row.document === null ? null : fromJson<Desired>(row.document),
});

export const desired = {
  getDesired: async (sql, device) => {
    const row = await sql.get<DesiredRow>(`SELECT ${COLUMNS} FROM desired WHERE device = :device`, { device });
    return row && toDesired(row);
  },
  getDesiredMany: async (sql, devices) => {
    const rows = await sql.all<DesiredRow>(
      `SELECT ${COLUMNS} FROM desired WHERE device IN (${sql.dialect.list('devices')}) ORDER BY device`,
      { devices: idList(devices) },
    );
    return rows.map(toDesired);
  },
  saveDesiredDocuments: async (sql, documents) => {
    for (const batch of inBatches(documents, BATCH_DEVICES))
      await sql.run(
        `UPDATE desired SET document = signed.document
         FROM ${sql.dialect.rows('signed', { device: 'text', seq: 'integer', document: 'json' })}
         WHERE desired.device = signed.device AND desired.seq = signed.seq`,
        { signed: rowList(batch) },
      );
  },
  skipDesiredSeqs: async (sql, count) => {
    await sql.run('UPDATE devices SET desired_seq = desired_seq + CAST(:count AS BIGINT)', { count });
    await sql.run('UPDATE desired SET seq = seq + CAST(:count AS BIGINT), document = NULL', { count });
  },
  takeOutbox: async (sql, limit) => {
    const rows = await sql.all<{ id: number; effect: string }>(
      'SELECT id, effect FROM outbox ORDER BY id LIMIT :limit',
      { limit: limitOf(limit) },
    );
    return rows.map((row): OutboxItem => ({ id: row.id, effect: fromJson(row.effect) }));
  },
  finishOutbox: async (sql, ids) => {
    await sql.run(`DELETE FROM outbox WHERE id IN (${sql.dialect.list('ids')})`, { ids: idList(ids) });
  },
} satisfies Partial<Methods>;

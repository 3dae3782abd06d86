/**
 * The agent's memory on disk: an append-only file, one record a line, each with its checksum and the whole memory, so
 * that the newest good line is all there is to know. A torn last line (power was lost while it was written) is dropped;
 * damage anywhere else means that the disk cannot be believed: the file is put aside for people to look at, and the
 * memory is rebuilt from the slots.
 */
import { createHash } from 'node:crypto';
import { type FileHandle, open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { readFileIfThere, syncFolder, writeFileDurably } from '#shared/durable.ts';
import { Memory } from '../domain/memory.ts';
import { isFull, storageRefusal } from '../process/system-error.ts';
import { type JournalReserve, openJournalReserve } from './journal-reserve.ts';

export type Journal = {
  /** Durable when it resolves. When it rejects (a full disk), the older record stands, and it may be called again. */
  append(memory: Memory): Promise<void>;
  /** Forgets all but the newest record. */
  compact(memory: Memory): Promise<void>;
  close(): Promise<void>;
};

export type OpenedJournal = {
  journal: Journal;
  /** The newest record; undefined when there is none, or when it was lost. */
  memory: Memory | undefined;
  /** What was wrong, in words; null when all was well. */
  damage: { kind: 'torn-tail' | 'quarantined'; message: string } | null;
};

const FILE = 'journal';
/** After this many records the journal is compacted by itself. */
const RECORDS_MAX = 500;
const QUARANTINED_MAX = 5;
/** Far more than `RECORDS_MAX` records of the largest memory. */
const JOURNAL_BYTES_MAX = 64 * 1024 * 1024;
const CHECKSUM_DIGITS = 16;

/** The folder must exist. */
export const openJournal = async (dir: string): Promise<OpenedJournal> => {
  const file = join(dir, FILE);
  const reserve = openJournalReserve(join(dir, `${FILE}.reserve`));
  const read = await readFileIfThere(file).then(readJournal, unreadable);
  if (read.state === 'damaged') {
    const kept = await quarantine(dir, file).then((aside) => `the journal was kept as ${aside}`, notQuarantined);
    const damage = { kind: 'quarantined' as const, message: `${read.why}; ${kept}` };
    return { journal: journalAt(file, reserve, 0, 0), memory: undefined, damage };
  }
  const damage = read.torn ? { kind: 'torn-tail' as const, message: 'the last record was torn and dropped' } : null;
  return { journal: journalAt(file, reserve, read.bytes, read.records), memory: read.newest, damage };
};

type Read =
  | { state: 'good'; newest: Memory | undefined; records: number; bytes: number; torn: boolean }
  | { state: 'damaged'; why: string };

/** A disk that cannot be read is one that cannot be believed. */
const unreadable = (error: unknown): Read => ({
  state: 'damaged',
  why: storageRefusal(error, 'the journal cannot be read').message,
});

/** The next record replaces it. */
const notQuarantined = (error: unknown): string => storageRefusal(error, 'it cannot be put aside').message;

/** Pure: what the bytes of a journal say. `bytes` is the length of its good part. */
export const readJournal = (content: Buffer | undefined): Read => {
  if (content === undefined || content.length === 0) {
    return { state: 'good', newest: undefined, records: 0, bytes: 0, torn: false };
  }
  if (content.length > JOURNAL_BYTES_MAX) return { state: 'damaged', why: 'the journal is too large to be ours' };
  let newest: Memory | undefined;
  let records = 0;
  let start = 0;
  while (start < content.length) {
    const newline = content.indexOf(0x0a, start);
    const end = newline === -1 ? content.length : newline;
    const record = newline === -1 ? undefined : parseRecord(content.subarray(start, end).toString('latin1'));
    if (record === undefined) {
      const isLast = end + 1 >= content.length;
      // Without any good record nothing tells a torn tail from a damaged file: compaction never leaves a torn first
      // line.
      if (!isLast || records === 0) return { state: 'damaged', why: `record ${records + 1} of the journal is damaged` };
      return { state: 'good', newest, records, bytes: start, torn: true };
    }
    newest = record;
    records += 1;
    start = end + 1;
  }
  return { state: 'good', newest, records, bytes: start, torn: false };
};

const checksum = (body: string): string =>
  createHash('sha256').update(body, 'latin1').digest('hex').slice(0, CHECKSUM_DIGITS);

/** Only ASCII, so that one character is one byte whatever is damaged. */
const formatRecord = (memory: Memory): string => {
  const body = JSON.stringify({ v: 1, memory }).replace(
    /[\u0080-\uffff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return `${checksum(body)} ${body}\n`;
};

const parseRecord = (line: string): Memory | undefined => {
  const body = line.slice(CHECKSUM_DIGITS + 1);
  if (line[CHECKSUM_DIGITS] !== ' ' || line.slice(0, CHECKSUM_DIGITS) !== checksum(body)) return undefined;
  try {
    const record: unknown = JSON.parse(body);
    return typeof record === 'object' && record !== null && 'memory' in record
      ? Memory.safeParse(record.memory).data
      : undefined;
  } catch {
    return undefined;
  }
};

const quarantine = async (dir: string, file: string): Promise<string> => {
  const known = (await readdir(dir))
    .flatMap((name) => /^journal\.damaged-(\d{1,9})$/.exec(name)?.[1] ?? [])
    .map(Number);
  const next = Math.max(0, ...known) + 1;
  const aside = join(dir, `journal.damaged-${next}`);
  await rename(file, aside);
  for (const old of known.sort((a, b) => b - a).slice(QUARANTINED_MAX - 1)) {
    await rm(join(dir, `journal.damaged-${old}`), { force: true });
  }
  await syncFolder(dir);
  return aside;
};

const journalAt = (file: string, reserve: JournalReserve, goodBytes: number, goodRecords: number): Journal => {
  let handle: FileHandle | undefined;
  let bytes = goodBytes;
  let records = goodRecords;

  const close = async (): Promise<void> => {
    const old = handle;
    handle = undefined;
    await old?.close();
  };
  const compact = async (memory: Memory): Promise<void> => {
    await close();
    const line = formatRecord(memory);
    await writeFileDurably(file, line, 0o600);
    bytes = line.length;
    records = 1;
  };
  const add = async (memory: Memory): Promise<void> => {
    // The first record, and every so many, by rename: a first line is never torn.
    if (records === 0 || records >= RECORDS_MAX) return compact(memory);
    handle ??= await open(file, 'r+');
    const line = Buffer.from(formatRecord(memory), 'latin1');
    await writeAll(handle, line, bytes);
    // What is left of a torn tail, or of a write that failed, must not follow the new record.
    await handle.truncate(bytes + line.length);
    await handle.datasync();
    bytes += line.length;
    records += 1;
  };
  return {
    compact,
    close,
    append: async (memory) => {
      try {
        await add(memory);
      } catch (error) {
        if (!isFull(error) || !(await reserve.giveUp())) throw error;
        // All older records are room, too.
        return compact(memory);
      }
      await reserve.renew();
    },
  };
};

const writeAll = async (handle: FileHandle, line: Buffer, position: number): Promise<void> => {
  for (let done = 0; done < line.length; ) {
    done += (await handle.write(line, done, line.length - done, position + done)).bytesWritten;
  }
};

/**
 * The report numbers that may have been used, also kept beside the journal. They must grow even when the journal is
 * lost and the clock was set back: the server takes a lower number for one that it has seen, acknowledges it, and keeps
 * nothing of it, not even a receipt.
 */
import { join } from 'node:path';
import { z } from 'zod';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import { isSystemError } from '../process/system-error.ts';
import type { Journal } from './journal.ts';

const Reserved = z.object({ v: z.literal(1), reportSeq: z.number().int().min(0) });
const file = (dir: string): string => join(dir, 'report-numbers.json');

/** 0 when no number was ever used, or the file cannot be read: the journal and the clock know it too. */
export const readReportSeq = async (dir: string): Promise<number> => {
  const bytes = await readFileIfThere(file(dir));
  if (bytes === undefined) return 0;
  try {
    return Reserved.safeParse(JSON.parse(bytes.toString('utf8'))).data?.reportSeq ?? 0;
  } catch {
    return 0;
  }
};

/**
 * The same journal; whatever it reserves is kept beside it first. Numbers are reserved by the thousand, so this is
 * rarely a write. Where that cannot be written the journal is all the same, which may give room: the copy is made then,
 * or with the next record.
 */
export const keepingReportSeq = (dir: string, journal: Journal, kept: number): Journal => {
  let written = kept;
  const keep = async (reportSeq: number): Promise<void> => {
    if (reportSeq <= written) return;
    try {
      await writeFileDurably(file(dir), `${JSON.stringify({ v: 1, reportSeq })}\n`);
      written = reportSeq;
    } catch (error) {
      if (!isSystemError(error)) throw error;
    }
  };
  return {
    ...journal,
    append: async (memory) => {
      await keep(memory.reportSeq);
      await journal.append(memory);
      await keep(memory.reportSeq);
    },
  };
};

/**
 * The security floor, also kept beside the journal: it must survive even the journal's loss, or a downgrade would
 * become possible.
 */
import { join } from 'node:path';
import { z } from 'zod';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';

const Floor = z.object({ v: z.literal(1), floor: z.number().int().min(0) });
const file = (dir: string): string => join(dir, 'floor.json');

/** 0 when nothing was ever committed, or the file cannot be read: the journal and the slots know it too. */
export const readFloor = async (dir: string): Promise<number> => {
  const bytes = await readFileIfThere(file(dir));
  if (bytes === undefined) return 0;
  try {
    return Floor.safeParse(JSON.parse(bytes.toString('utf8'))).data?.floor ?? 0;
  } catch {
    return 0;
  }
};

export const writeFloor = (dir: string, floor: number): Promise<void> =>
  writeFileDurably(file(dir), `${JSON.stringify({ v: 1, floor })}\n`);

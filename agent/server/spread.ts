/**
 * The width over which the fleet spreads, as its server told it last: known after a restart too, when the whole fleet
 * may have had one.
 */
import { join } from 'node:path';
import { z } from 'zod';
import { readFileIfThere, writeFileDurably } from '#shared/durable.ts';
import type { Disk } from '../disk/disk.ts';
import { clampedSpread } from '../domain/spread.ts';

export type Spread = {
  ms: () => number;
  /** Undefined: the server says none, since the fleet is small. */
  learn: (ms: number | undefined) => void;
};

const Kept = z.object({ v: z.literal(1), spreadMs: z.number().min(0) });
/** A fleet that grows a little is not worth a write. */
const CHANGED = 0.2;

export const openSpread = async (dataDir: string, disk: Pick<Disk, 'attempt'>): Promise<Spread> => {
  const file = join(dataDir, 'spread.json');
  let kept = await readKept(file);
  let known = kept;
  return {
    ms: () => known,
    learn: (ms) => {
      known = clampedSpread(ms);
      if (Math.abs(known - kept) <= CHANGED * Math.max(known, kept)) return;
      kept = known;
      void disk.attempt('spread.json', () => writeFileDurably(file, `${JSON.stringify({ v: 1, spreadMs: known })}\n`));
    },
  };
};

const readKept = async (file: string): Promise<number> => {
  try {
    const bytes = await readFileIfThere(file);
    const read = bytes === undefined ? undefined : Kept.safeParse(JSON.parse(bytes.toString('utf8'))).data;
    return clampedSpread(read?.spreadMs);
  } catch {
    return 0;
  }
};

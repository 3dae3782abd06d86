/**
 * What the newest deployment cost in bytes: reported as attributes, so that they are seen with the device. Kept across
 * restarts, not flushed.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { readFileIfThere } from '#shared/durable.ts';

const Last = z.object({ bytesFetched: z.number().int().min(0), bytesSaved: z.number().int().min(0) });
type Last = z.infer<typeof Last>;

export const openLastTransfer = async (dir: string) => {
  const file = join(dir, 'transfer.json');
  let last = parseLast(await readFileIfThere(file).catch(() => undefined));
  return {
    /** The fetch has ended, well or not. */
    ended: async ({ bytesFetched, bytesDone }: Progress): Promise<void> => {
      last = { bytesFetched, bytesSaved: Math.max(0, bytesDone - bytesFetched) };
      // It is only for people.
      await writeFile(file, JSON.stringify(last)).catch(() => undefined);
    },
    attributes: (): Record<string, string> =>
      last === undefined ? {} : { bytes_fetched: `${last.bytesFetched}`, bytes_saved: `${last.bytesSaved}` },
  };
};

const parseLast = (bytes: Buffer | undefined): Last | undefined => {
  try {
    return Last.safeParse(JSON.parse(bytes?.toString('utf8') ?? '')).data;
  } catch {
    return undefined;
  }
};

/** Of one deployment. `bytesFetched`: what came over the network since the agent started, useful or not. */
export type Progress = { bytesDone: number; bytesTotal: number; bytesFetched: number };

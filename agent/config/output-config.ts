/** Where the application's output goes, and how much of it. */
import { z } from 'zod';

const BYTES_PER_SECOND = 4_096;

const BURST_BYTES = 1024 ** 2;

/** The environment and flags know only text. */
const bytes = (min: number) => z.coerce.number().int().min(min).max(Number.MAX_SAFE_INTEGER);

export const OutputConfig = z.strictObject({
  /** Two files of bounded size beside the pid file, the system's journal, or nothing but the last lines in memory. */
  to: z.enum(['file', 'journald', 'none']).default('file'),
  /** 0 is no limit. */
  bytesPerSecond: bytes(0).default(BYTES_PER_SECOND),
  burstBytes: bytes(4_096).default(BURST_BYTES),
});

export type OutputConfig = z.infer<typeof OutputConfig>;

import { z } from 'zod';
import { DurationMs } from '#shared/ids.ts';

export const MeteredConfig = z.strictObject({
  /** `allow`: fetch anyway. `delay`: wait for another link, but not forever. `forbid`: wait as long as it takes. */
  policy: z.enum(['allow', 'delay', 'forbid']).default('allow'),
  /** The link is metered as long as this file is there. */
  file: z.string().max(4096).optional(),
  /** The link is metered when this ends with exit code 0; what cannot be run counts as metered. Only in the file. */
  command: z.array(z.string().min(1).max(4096)).min(1).max(64).optional(),
  /** Of `delay`: the longest wait, from the beginning of the fetch. */
  delayMs: z.coerce.number().pipe(DurationMs).default(86_400_000),
  /** So much of each deployment is fetched over any link. */
  bytesFree: z.coerce.number().int().min(0).default(0),
});

export type MeteredConfig = z.infer<typeof MeteredConfig>;

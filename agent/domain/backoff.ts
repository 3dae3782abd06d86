/**
 * Waiting before trying again. Full jitter: a fleet that lost its server at one moment must not come back at one
 * moment.
 */

export type Backoff = { firstMs: number; maxMs: number };

/**
 * The wait before attempt `attempt` (the first retry is 0), given a random number from 0 to 1. Never below a tenth of
 * the first wait.
 */
export const backoffMs = (attempt: number, { firstMs, maxMs }: Backoff, random: number): number => {
  const ceilingMs = Math.min(maxMs, firstMs * 2 ** Math.min(attempt, 30));
  const [leastMs, waitMs] = [firstMs / 10, random * ceilingMs];
  // What would be too short is spread over all of it as well: at the least wait a tenth of a fleet would come at one
  // moment.
  return Math.round(waitMs >= leastMs ? waitMs : leastMs + random * 10 * (ceilingMs / firstMs) * (ceilingMs - leastMs));
};

/** A period of `meanMs` spread by a fifth to both sides. */
export const jitteredMs = (meanMs: number, random: number): number => Math.round(meanMs * (0.8 + 0.4 * random));

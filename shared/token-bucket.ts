/** How fast somebody may go: a burst, then a steady rate. Plain arithmetic; the clock (monotonic or not, in milliseconds) arrives with each call. */
export type TokenBucket = { tokens: number; at: number };
export type Rate = { burst: number; perSecond: number };

export const fullBucket = (rate: Rate, now: number): TokenBucket => ({ tokens: rate.burst, at: now });

/** Fills up for the time passed, then takes `cost`, into debt if need be. Returns what is left; below zero is debt. */
export const take = (bucket: TokenBucket, rate: Rate, now: number, cost = 1): number => {
  // A clock that was set back gives nothing and takes nothing.
  const passedMs = Math.max(0, now - bucket.at);
  bucket.tokens = Math.min(rate.burst, bucket.tokens + (passedMs / 1000) * rate.perSecond) - cost;
  bucket.at = now;
  return bucket.tokens;
};

/** How long until a debt is paid off. */
export const waitMs = (tokens: number, rate: Rate): number =>
  tokens >= 0 ? 0 : Math.ceil((-tokens / rate.perSecond) * 1000);

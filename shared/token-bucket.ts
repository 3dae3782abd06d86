/**
 * How fast someone may go: a burst, then a steady rate. Plain arithmetic; the clock (monotonic or not, in milliseconds)
 * arrives with each call.
 */
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

/**
 * One bucket a key, for the `keysMax` keys last seen: to be forgotten is to be trusted again, so the bound is generous.
 */
export const perKey = (rate: Rate, keysMax: number): ((key: string, now: number) => boolean) => {
  const buckets = new Map<string, TokenBucket>();
  return (key, now) => {
    const bucket = buckets.get(key) ?? fullBucket(rate, now);
    // The map keeps the order of insertion, so that the first key is the one seen longest ago.
    buckets.delete(key);
    buckets.set(key, bucket);
    const oldest = buckets.size > keysMax ? buckets.keys().next().value : undefined;
    if (oldest !== undefined) buckets.delete(oldest);
    if (take(bucket, rate, now) >= 0) return true;
    // What was refused costs nothing, or a caller who keeps asking would never get through again.
    bucket.tokens += 1;
    return false;
  };
};

/** Whom a limit counts as one: an IPv4 address, or an IPv6 /64, since one host may use all of it. */
export const addressGroup = (address: string): string => {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  if (mapped?.[1] !== undefined) return mapped[1];
  if (!address.includes(':')) return address;
  const [head = '', tail] = (address.split('%', 1)[0] ?? '').split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const all =
    tail === undefined ? left : [...left, ...Array<string>(8 - left.length - right.length).fill('0'), ...right];
  return `${all.slice(0, 4).join(':')}::/64`;
};

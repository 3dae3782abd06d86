/** Limits by key, on top of the plain buckets: for addresses, devices, reasons. */
import { fullBucket, type Rate, type TokenBucket, take } from '#shared/token-bucket.ts';

/** One bucket a key, for the `keysMax` keys last seen: to be forgotten is to be trusted anew, so the bound is generous. */
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

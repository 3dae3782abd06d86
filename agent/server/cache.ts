/**
 * A site's shared cache for what is named by its digest: any HTTP cache in front of the server. It is asked without the
 * device's login and believed as little as anyone; one that fails or lies is left alone for a while, and the server
 * asked instead.
 */
import { hash } from 'node:crypto';
import { TUF_TARGETS } from '#shared/device-api.ts';
import { MANIFEST_BYTES_MAX } from '#shared/manifest.ts';
import { jitteredMs } from '../domain/backoff.ts';
import type { Log } from '../log.ts';
import type { ProxyFor } from './proxy.ts';
import { type HttpAnswer, type HttpGet, request } from './request.ts';
import { reasonOf } from './transfer-error.ts';

const ANSWER_MS_MAX = 10_000;
/** How long a cache is left alone that cannot be reached, and one that gave wrong bytes or too few. */
const AWAY_MS = 60_000;
const DISTRUSTED_MS = 10 * 60_000;

export type Cache = {
  get: HttpGet;
  /** What came was wrong or late: perhaps because of the cache. */
  distrust: () => void;
};

export const openCache = (options: {
  get: HttpGet;
  cacheUrl: string;
  proxyFor?: ProxyFor;
  log: Pick<Log, 'info'>;
}): Cache => {
  const { get: origin, cacheUrl, proxyFor, log } = options;
  const through = proxyFor === undefined ? {} : { proxyFor };
  let badUntil = Number.NEGATIVE_INFINITY;
  const leave = (ms: number, why: string): void => {
    if (performance.now() >= badUntil) log.info({ event: 'cache-left', cacheUrl }, `the cache is left alone: ${why}`);
    // The devices of a site leave it together, and come back one by one.
    badUntil = performance.now() + jitteredMs(ms, Math.random());
  };

  const ask: HttpGet = async (path, headers, signal) => {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), ANSWER_MS_MAX);
    try {
      return await request(`${cacheUrl}${path}`, {
        headers,
        signal: AbortSignal.any([signal, late.signal]),
        ...through,
      });
    } finally {
      clearTimeout(timer);
    }
  };
  const get: HttpGet = async (path, headers, signal) => {
    const named = path.startsWith('/o/') || path.startsWith(TUF_TARGETS);
    if (!named || performance.now() < badUntil) return origin(path, headers, signal);
    let answer: HttpAnswer | undefined;
    try {
      answer = await ask(path, headers, signal);
      if (answer.status === 200 && path.startsWith(TUF_TARGETS)) answer = await checked(path, answer);
      else if (answer.status === 200 || answer.status === 206) return answer;
      else await answer.body?.cancel();
    } catch (error) {
      if (signal.aborted) throw error;
      leave(AWAY_MS, reasonOf(error));
      return origin(path, headers, signal);
    }
    if (answer?.status === 200) return answer;
    if (answer === undefined) leave(DISTRUSTED_MS, `${path} is not what its name says`);
    return origin(path, headers, signal);
  };
  return { get, distrust: () => leave(DISTRUSTED_MS, 'what came was wrong or late') };
};

/** A manifest, small enough to be looked at whole: undefined when it has not the digest that is its name. */
const checked = async (path: string, answer: HttpAnswer): Promise<HttpAnswer | undefined> => {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of answer.body ?? []) {
    bytes += piece.length;
    if (bytes > MANIFEST_BYTES_MAX) return undefined;
    pieces.push(piece);
  }
  const whole = Buffer.concat(pieces);
  const digest = /([0-9a-f]{64})\.[^/]*$/.exec(path)?.[1];
  return hash('sha256', whole) === digest ? { ...answer, body: bodyOf(whole) } : undefined;
};

const bodyOf = (bytes: Uint8Array): HttpAnswer['body'] => ({
  async *[Symbol.asyncIterator]() {
    yield bytes;
  },
  cancel: async () => undefined,
});

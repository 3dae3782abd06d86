/**
 * HTTP first. While it cannot be reached but MQTT can, the same requests go over MQTT; now and then HTTP is tried
 * again.
 */
import { jitteredMs } from '../domain/backoff.ts';
import type { Log } from '../log.ts';
import type { HttpGet } from './request.ts';
import { reasonOf } from './transfer-error.ts';

/** A firewall that drops instead of refusing shows only by silence. */
const ANSWER_MS_MAX = 10_000;
const AGAIN_MS = 30_000;

export type ReachOptions = {
  http: HttpGet;
  /** Undefined while MQTT is not connected. */
  blocks: () => HttpGet | undefined;
  log: Pick<Log, 'info'>;
  answerMs?: number;
  againMs?: number;
};

export const firstReachable = (options: ReachOptions): HttpGet => {
  const { http, log } = options;
  let downUntil = Number.NEGATIVE_INFINITY;
  let down = false;

  const tryHttp: HttpGet = async (path, headers, signal) => {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), options.answerMs ?? ANSWER_MS_MAX);
    try {
      const answer = await http(path, headers, AbortSignal.any([signal, late.signal]));
      if (down) log.info({ event: 'http-back' }, 'HTTP works again');
      down = false;
      return answer;
    } finally {
      clearTimeout(timer);
    }
  };
  return async (path, headers, signal) => {
    if (options.blocks() === undefined) return http(path, headers, signal);
    if (performance.now() >= downUntil) {
      try {
        return await tryHttp(path, headers, signal);
      } catch (error) {
        const blocks = options.blocks();
        if (signal.aborted || blocks === undefined) throw error;
        if (!down) log.info({ event: 'http-away' }, `HTTP cannot be reached, so MQTT it is: ${reasonOf(error)}`);
        down = true;
        downUntil = performance.now() + jitteredMs(options.againMs ?? AGAIN_MS, Math.random());
      }
    }
    return (options.blocks() ?? http)(path, headers, signal);
  };
};

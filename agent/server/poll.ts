/** Asks for the desired document over HTTP while MQTT cannot be reached, and finds out why it cannot. */

import { z } from 'zod';
import { deviceRoutes as routes } from '#shared/device-api.ts';
import { Desired } from '#shared/messages.ts';
import { jitteredMs } from '../domain/backoff.ts';
import type { Log } from '../log.ts';
import type { Http } from './http.ts';

export type PollOptions = {
  http: Pick<Http, 'getJson'>;
  /** Whether MQTT works: then nothing is asked. */
  connected(): boolean;
  /** A version on trial waits for contact with the server. */
  hurried(): boolean;
  /** Undefined: it cannot be understood. */
  onDesired(desired: Desired | undefined): void;
  /** Over how long the fleet comes back, as the server says. */
  onSpread?: (ms: number | undefined) => void;
  /** What came of asking: null, or why there was no answer. */
  onAnswer?: (trouble: string | null) => void;
  /** The server answers, and can be told what this device has to say without MQTT. */
  tell?: (signal: AbortSignal) => Promise<void>;
  /**
   * MQTT has not worked for a whole interval: perhaps the server tells another address now. `refused`: it does not let
   * this device in.
   */
  onStillDisconnected(refused: boolean): Promise<void>;
  pollMs: number;
  log: Log;
};

export type Poll = {
  /** Ask soon: the MQTT login was refused, and HTTP says why. */
  nudge(): void;
  /** The server has answered lately. */
  answeredLately: () => boolean;
  stop(): Promise<void>;
};

/** A document that cannot be understood is no reason to take the server for one that does not answer. */
const Answer = routes.desired.answer.extend({ desired: z.unknown() });
const HURRIED_MS = 5_000;
const LATELY_MS = 20_000;
/** However often logins are refused. */
const NUDGE_GAP_MS = 5_000;

export const openPoll = (options: PollOptions): Poll => {
  const { http, log } = options;
  const stopping = new AbortController();
  let answeredAt = Number.NEGATIVE_INFINITY;
  let askedAt = performance.now();
  /** When something was really asked; `askedAt` also moves while MQTT works. */
  let lastAskedAt = Number.NEGATIVE_INFINITY;
  let nudged = false;
  let asking: Promise<void> = Promise.resolve();

  const ask = async (): Promise<void> => {
    nudged = false;
    const result = await http.getJson(routes.desired.path, Answer, stopping.signal);
    options.onAnswer?.(result.ok ? null : result.message);
    if (result.ok) {
      answeredAt = performance.now();
      const { desired, spreadMs } = result.value;
      options.onSpread?.(spreadMs);
      if (desired !== null) options.onDesired(Desired.safeParse(desired).data);
      await options.tell?.(stopping.signal);
    } else {
      log.warn({ event: 'poll-failed', code: result.code }, `not connected, and over HTTP: ${result.message}`);
    }
    await options.onStillDisconnected(!result.ok && (result.code === 'unauthenticated' || result.code === 'forbidden'));
  };

  let dueMs = jitteredMs(options.pollMs, Math.random());
  const timer = setInterval(() => {
    if (options.connected()) {
      askedAt = performance.now();
      nudged = false;
      return;
    }
    const now = performance.now();
    const isNudged = nudged && now - lastAskedAt >= NUDGE_GAP_MS;
    const limitMs = options.hurried() ? Math.min((HURRIED_MS * dueMs) / options.pollMs, dueMs) : dueMs;
    if (!isNudged && now - askedAt < limitMs) return;
    dueMs = jitteredMs(options.pollMs, Math.random());
    askedAt = now;
    lastAskedAt = now;
    asking = asking
      .then(ask)
      .catch((error: unknown) => log.error({ event: 'poll-failed', err: error }, 'polling failed'));
  }, 500);
  timer.unref();

  return {
    nudge: () => {
      nudged = true;
    },
    answeredLately: () => performance.now() - answeredAt < LATELY_MS,
    stop: async () => {
      clearInterval(timer);
      stopping.abort();
      await asking;
    },
  };
};

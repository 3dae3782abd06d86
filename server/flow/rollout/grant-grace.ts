/**
 * Time for devices to come back when the server was away. What they had to say while no one listened is late, not
 * missing: without this a good release would halt because its server was down for longer than a deadline.
 */

import { type Noted, stepBetween } from '#server/domain/rollout/clock-step.ts';
import type { Store } from '#server/store/store.ts';
import { Uptime } from '#shared/machine-uptime.ts';
import { moveTimes } from '../time/follow-clock.ts';

/**
 * When this server, or the one before it, was last known to run; the same by the machine's uptime, which no one sets.
 */
export const ALIVE_META = 'alive-at';
const ALIVE_UPTIME_META = 'alive-uptime';

/** Agents wait this long between two attempts at most, unless they are told otherwise (`reconnect.maxMs`). */
const RECONNECT_MS = 300_000;

export type Grace = {
  /** Null when no one knows. */
  awayMs: number | null;
  /** By how much the clock was set meanwhile, as far as that is known: the times of rollouts moved along. */
  stepMs: number;
  graceMs: number;
  /** How many have a later deadline now. */
  deployments: number;
};

/** Called each minute and at a stop, so that the next start can tell how long the server was away. */
export const noteAlive = async (deps: {
  store: Pick<Store, 'setMeta'>;
  now: () => number;
  uptime?: () => Promise<Uptime>;
}): Promise<void> => {
  const uptime = await deps.uptime?.();
  await deps.store.setMeta(ALIVE_META, String(deps.now()));
  await deps.store.setMeta(ALIVE_UPTIME_META, uptime === undefined ? '' : JSON.stringify(uptime));
};

/** Undefined when no one knows. */
const readAlive = async (store: Pick<Store, 'getMeta'>): Promise<Noted | undefined> => {
  const wall = Number((await store.getMeta(ALIVE_META)) ?? Number.NaN);
  if (!Number.isFinite(wall)) return undefined;
  try {
    return { wall, uptime: Uptime.safeParse(JSON.parse((await store.getMeta(ALIVE_UPTIME_META)) ?? '')).data };
  } catch {
    return { wall };
  }
};

/**
 * At start, before anything is judged: no one is overdue before `graceMs` have passed, or less after a short absence,
 * in which devices cannot have begun to wait long between their attempts to connect.
 */
export const grantGrace = async (
  deps: {
    store: Pick<Store, 'getMeta' | 'extendDeadlines' | 'moveTimes'>;
    now: () => number;
    uptime?: () => Promise<Uptime>;
  },
  graceMsMax: number,
): Promise<Grace> => {
  const now = deps.now();
  const alive = await readAlive(deps.store);
  const stepMs = alive === undefined ? 0 : stepBetween(alive, { wall: now, uptime: await deps.uptime?.() });
  if (stepMs !== 0) await moveTimes(deps.store, stepMs, now);
  const awayMs = alive === undefined ? null : Math.max(0, now - alive.wall - stepMs);
  const graceMs = awayMs === null ? graceMsMax : Math.min(graceMsMax, awayMs + RECONNECT_MS);
  return { awayMs, stepMs, graceMs, deployments: graceMs === 0 ? 0 : await deps.store.extendDeadlines(now + graceMs) };
};

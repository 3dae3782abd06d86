/**
 * Time for devices to come back when the server was away. What they had to say while nobody listened is late, not missing:
 * without this a good release would halt because its server was down for longer than a deadline.
 */
import type { Store } from '../store/store.ts';

/** When this server, or the one before it, was last known to run. */
export const ALIVE_META = 'alive-at';

/** Agents wait this long between two attempts at most, unless they are told otherwise (`reconnect.maxMs`). */
const RECONNECT_MS = 300_000;

export type Grace = {
  /** Null when nobody knows. */
  awayMs: number | null;
  graceMs: number;
  /** How many have a later deadline now. */
  deployments: number;
};

/** Called each minute and at a stop, so that the next start can tell how long the server was away. */
export const noteAlive = async (deps: { store: Pick<Store, 'setMeta'>; now: () => number }): Promise<void> => {
  await deps.store.setMeta(ALIVE_META, String(deps.now()));
};

/**
 * At start, before anything is judged: nobody is overdue before `graceMs` have passed, or less after a short absence,
 * in which devices can not have begun to wait long between their attempts to connect.
 */
export const grantGrace = async (
  deps: { store: Pick<Store, 'getMeta' | 'extendDeadlines'>; now: () => number },
  graceMsMax: number,
): Promise<Grace> => {
  const now = deps.now();
  const aliveAt = Number((await deps.store.getMeta(ALIVE_META)) ?? Number.NaN);
  const awayMs = Number.isFinite(aliveAt) ? Math.max(0, now - aliveAt) : null;
  const graceMs = awayMs === null ? graceMsMax : Math.min(graceMsMax, awayMs + RECONNECT_MS);
  return { awayMs, graceMs, deployments: graceMs === 0 ? 0 : await deps.store.extendDeadlines(now + graceMs) };
};

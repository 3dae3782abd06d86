/** Whether this server is well, for load balancers and watchdogs: public, and so says little. */
import type { FastifyInstance } from 'fastify';
import type { Store } from '../store/store.ts';

const ANSWER_MS_MAX = 2_000;
/** The oldest work recorded may wait this long; it is looked at every second. */
const OUTBOX_STUCK_MS = 60_000;
/** Health is asked for often, by anyone: the store is asked at most this often. */
const FRESH_MS = 500;

type Health = { status: 'ok' | 'failing'; store: 'ok' | 'failing'; outbox: 'ok' | 'stuck' };

/** 200 when well, 503 when not; the body is the same for both. */
export const healthRoute = (
  app: FastifyInstance,
  deps: { store: Pick<Store, 'takeOutbox'>; now: () => number },
): void => {
  const check = makeHealthCheck(deps);
  let last: { at: number; health: Promise<Health> } | undefined;
  app.get('/health', { config: { roles: ['public'] }, schema: { hide: true } }, async (_request, reply) => {
    const at = deps.now();
    if (last === undefined || Math.abs(at - last.at) > FRESH_MS) last = { at, health: check() };
    const health = await last.health;
    return reply
      .code(health.status === 'ok' ? 200 : 503)
      .header('cache-control', 'no-store')
      .send(health);
  });
};

/** Remembers what was first in the outbox, and since when: if that does not move, no one performs effects. */
const makeHealthCheck = (deps: { store: Pick<Store, 'takeOutbox'>; now: () => number }): (() => Promise<Health>) => {
  let first: { id: number; since: number } | undefined;
  return async () => {
    const head = await withinTime(deps.store.takeOutbox(1));
    if (head === undefined) return { status: 'failing', store: 'failing', outbox: 'ok' };
    const id = head[0]?.id;
    const now = deps.now();
    if (id === undefined) first = undefined;
    else if (first?.id !== id) first = { id, since: now };
    const stuck = first !== undefined && now - first.since > OUTBOX_STUCK_MS;
    return { status: stuck ? 'failing' : 'ok', store: 'ok', outbox: stuck ? 'stuck' : 'ok' };
  };
};

/** Undefined when the store fails, or does not answer in time. */
const withinTime = async <T>(work: Promise<T>): Promise<T | undefined> => {
  const late = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => late.resolve(undefined), ANSWER_MS_MAX);
  try {
    return await Promise.race([work, late.promise]);
  } catch {
    return undefined;
  } finally {
    clearTimeout(timer);
  }
};

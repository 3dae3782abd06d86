/**
 * Following what happens: the audit log, read by consumers that remember how far they came. Each event comes to each
 * consumer at least once and in order, whatever crashes: how far it came is saved when a page is handled, and not
 * before.
 */

import { type AuditEvent, parseAuditEvent } from '#server/domain/audit.ts';
import type { Store } from '#server/store/store.ts';
import type { Id } from '#shared/ids.ts';

/**
 * `event` is undefined where this version does not know its kind: a newer one wrote it, and a consumer passes over it
 * or keeps its text.
 */
type Followed = { index: number; event: AuditEvent | undefined; payload: string };

export type Consumer = {
  /** Names its cursor. Two that share it skip nothing, but each event may come to both. */
  name: Id;
  /** Where it begins when it is new: with the first event ever, or with the next. */
  from: 'start' | 'now';
  /**
   * Oldest first, at most `PAGE_EVENTS`. What it throws is told to `onError`, and the same page comes again after a
   * wait.
   */
  handle(page: readonly Followed[]): Promise<void>;
};

export type Follower = {
  /** There may be something new: look at once. A look every few seconds finds what others wrote. */
  wake(): void;
  /** Resolves when the page that is being handled is done. */
  stop(): Promise<void>;
};

type FollowStore = Pick<Store, 'readAudit' | 'getAuditHead' | 'getMeta' | 'setMeta'>;
type Waits = { lookMs: number; retryMs: number; retryMsMax: number };

const PAGE_EVENTS = 500;
const WAITS: Waits = { lookMs: 2_000, retryMs: 1_000, retryMsMax: 60_000 };

/**
 * Of a new consumer it is saved at once: what happens from now on must come to it, also when this process ends first.
 */
const cursorOf = async (store: FollowStore, { name, from }: Consumer): Promise<number> => {
  const kept = await store.getMeta(keyOf(name));
  if (kept !== undefined) {
    const cursor = Number(kept);
    if (!Number.isSafeInteger(cursor) || cursor < -1) throw new Error(`the cursor of ${name} is no index: ${kept}`);
    return cursor;
  }
  const cursor = from === 'start' ? -1 : (await store.getAuditHead()).size - 1;
  await store.setMeta(keyOf(name), String(cursor));
  return cursor;
};
const keyOf = (name: Id): string => `cursor:${name}`;

/** Handles the next page; false when there is none. */
export const followPage = async (store: FollowStore, consumer: Consumer): Promise<boolean> => {
  const entries = await store.readAudit(await cursorOf(store, consumer), PAGE_EVENTS);
  const last = entries.at(-1);
  if (last === undefined) return false;
  await consumer.handle(entries.map(({ index, payload }) => ({ index, event: parseAuditEvent(payload), payload })));
  await store.setMeta(keyOf(consumer.name), String(last.index));
  return true;
};

/** Follows until it is stopped. `waits` are shorter in tests. */
export const followEvents = (
  deps: { store: FollowStore /** Must not throw. */; onError: (error: unknown) => void; waits?: Waits },
  consumer: Consumer,
): Follower => {
  const { lookMs, retryMs, retryMsMax } = deps.waits ?? WAITS;
  let failures = 0;
  const stopping = new AbortController();
  let isAsked = false;
  let running: Promise<void> | undefined;
  let next: NodeJS.Timeout | undefined;

  const readOn = async (): Promise<void> => {
    try {
      while (!stopping.signal.aborted && (await followPage(deps.store, consumer))) failures = 0;
      failures = 0;
    } catch (error) {
      failures += 1;
      deps.onError(error);
    }
  };
  const look = (): void => {
    clearTimeout(next);
    isAsked = false;
    running = readOn().then(() => {
      running = undefined;
      if (stopping.signal.aborted) return;
      const waitMs = failures === 0 ? lookMs : Math.min(retryMsMax, retryMs * 2 ** (failures - 1));
      next = setTimeout(look, isAsked && failures === 0 ? 0 : waitMs);
    });
  };
  look();
  return {
    wake: () => {
      if (running !== undefined) isAsked = true;
      // A page that fails waits for its time, however much happens meanwhile.
      else if (!stopping.signal.aborted && failures === 0) look();
    },
    stop: async () => {
      stopping.abort();
      clearTimeout(next);
      await running;
    },
  };
};

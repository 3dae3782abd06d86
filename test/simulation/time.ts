/**
 * Virtual time. While a simulation runs, timers, `performance.now` and `Math.random` are the simulation's, so that the
 * real shells (ingest, rollouts, greeter, reporter, inbox, machine) run as they are. A timer belongs to the process
 * that set it and dies with it.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { createRequire, syncBuiltinESMExports } from 'node:module';
import type { Random } from './random.ts';

/**
 * One life of a server or an agent. Once dead, nothing of it happens any more: its timers are dropped, its calls never
 * return.
 */
export type Process = { name: string; dead: boolean };
type Entry = { at: number; order: number; owner: Process | undefined; act: (() => void) | undefined };

export type Time = {
  now(): number;
  /** In the name of `owner`, or of no one. */
  at(delayMs: number, owner: Process | undefined, act: () => void): Entry;
  within<T>(owner: Process | undefined, act: () => T): T;
  /** Runs what is due, in order, until this time; false when `isOver` ended it. */
  runUntil(end: number, isOver: () => boolean): Promise<boolean>;
  sleep(delayMs: number): Promise<void>;
  restore(): void;
};

const drained = setImmediate;
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the CommonJS view of the module is the one that can be changed
const promises = createRequire(import.meta.url)('node:timers/promises') as {
  setTimeout: (ms?: number, value?: unknown, options?: { signal?: AbortSignal }) => Promise<unknown>;
};

const before = (one: Entry, two: Entry): boolean => one.at < two.at || (one.at === two.at && one.order < two.order);

/** A binary heap: the earliest first, and of the same time the one that was set first. */
const openQueue = () => {
  const heap: Entry[] = [];
  return {
    top: (): Entry | undefined => heap[0],
    push: (entry: Entry): void => {
      let at = heap.push(entry) - 1;
      while (at > 0) {
        const parent = (at - 1) >> 1;
        if (!before(entry, heap[parent]!)) break;
        heap[at] = heap[parent]!;
        at = parent;
      }
      heap[at] = entry;
    },
    pop: (): void => {
      const last = heap.pop();
      if (last === undefined || heap.length === 0) return;
      let at = 0;
      for (;;) {
        let child = 2 * at + 1;
        if (child >= heap.length) break;
        if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child += 1;
        if (!before(heap[child]!, last)) break;
        heap[at] = heap[child]!;
        at = child;
      }
      heap[at] = last;
    },
  };
};

/** Takes the clock over until `restore`. One simulation at a time in a thread. */
export const openTime = (startAt: number, random: Random): Time => {
  const owners = new AsyncLocalStorage<Process | undefined>();
  const queue = openQueue();
  let time = startAt;
  let order = 0;

  const at: Time['at'] = (delayMs, owner, act) => {
    order += 1;
    const entry: Entry = { at: time + Math.max(0, Math.ceil(delayMs)), order, owner, act };
    queue.push(entry);
    return entry;
  };
  const real = { ...pickTimers(), now: performance.now.bind(performance), sleep: promises.setTimeout };
  const realRandom = Math.random.bind(Math);
  const stop = (entry: unknown): void => {
    if (typeof entry === 'object' && entry !== null && 'act' in entry) entry.act = undefined;
  };
  const handleOf = (entry: Entry): object => Object.assign(entry, { ref: () => entry, unref: () => entry });
  const sleep = (delayMs: number): Promise<void> =>
    new Promise((resolve) => void at(delayMs, owners.getStore(), resolve));
  const patches = {
    setTimeout: (act: () => void, ms = 0) => handleOf(at(Math.max(1, ms), owners.getStore(), act)),
    clearTimeout: stop,
    setInterval: (act: () => void, ms = 0) => {
      const owner = owners.getStore();
      const handle: { act: (() => void) | undefined } = { act };
      const again = (): void => {
        if (handle.act === undefined) return;
        at(Math.max(1, ms), owner, again);
        handle.act();
      };
      at(Math.max(1, ms), owner, again);
      return Object.assign(handle, { ref: () => handle, unref: () => handle });
    },
    clearInterval: stop,
  };
  Object.assign(globalThis, patches);
  performance.now = () => time - startAt;
  Math.random = () => random.next();
  promises.setTimeout = async (ms = 0, value, options) => {
    options?.signal?.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const entry = at(ms, owners.getStore(), () => resolve(value));
    options?.signal?.addEventListener('abort', () => {
      stop(entry);
      reject(new DOMException('aborted', 'AbortError'));
    });
    return promise;
  };
  syncBuiltinESMExports();

  return {
    now: () => time,
    at,
    sleep,
    within: (owner, act) => owners.run(owner, act),
    runUntil: async (end, isOver) => {
      for (;;) {
        if (isOver()) return false;
        const entry = queue.top();
        if (entry === undefined || entry.at > end) break;
        queue.pop();
        time = Math.max(time, entry.at);
        const { act } = entry;
        if (act === undefined || entry.owner?.dead === true) continue;
        entry.act = undefined;
        owners.run(entry.owner, act);
        // Every promise that can go on has gone on when the next real turn begins.
        await new Promise<void>((resolve) => drained(resolve));
      }
      time = Math.max(time, end);
      return true;
    },
    restore: () => {
      Object.assign(globalThis, real.timers);
      performance.now = real.now;
      Math.random = realRandom;
      promises.setTimeout = real.sleep;
      syncBuiltinESMExports();
    },
  };
};

const pickTimers = () => {
  const { setTimeout, clearTimeout, setInterval, clearInterval } = globalThis;
  return { timers: { setTimeout, clearTimeout, setInterval, clearInterval } };
};

/**
 * Runs the install state machine: takes events one at a time, records each next state before anything is done about it,
 * and performs the effects. A new state ends what was being done for the old one, and waits until that has really
 * ended.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { oneAtATime } from '#shared/in-turn.ts';
import { type Backoff, backoffMs } from '../domain/backoff.ts';
import type { Effect, InstallEvent, InstallState } from '../domain/install-state.ts';
import { type Memory, stepMemory } from '../domain/memory.ts';
import type { Log } from '../log.ts';
import { crashPoint } from '../process/crash-point.ts';
import type { Journal } from './journal.ts';

/** An event but for its time, which the machine adds. */
export type EventOf<E = InstallEvent> = E extends { at: number } ? Omit<E, 'at'> : never;

export type MachineOptions = {
  memory: Memory;
  journal: Pick<Journal, 'append'>;
  now: () => number;
  log: Log;
  /** Does one thing. What it returns is the next event; undefined when there is none. May stop early when aborted. */
  perform(effect: Effect, state: InstallState, signal: AbortSignal): Promise<EventOf | undefined>;
  /** What to make of an effect that threw. */
  failureOf(effect: Effect, error: unknown): EventOf | undefined;
  /** After a record, before its effects. */
  recorded(memory: Memory, previous: Memory): Promise<void>;
};

export type Machine = {
  memory: () => Memory;
  send: (event: EventOf) => void;
  /**
   * Records a change besides the state, for an effect that must not go on before it is durable. False when it was
   * aborted and must not go on at all. (It must not wait for its turn then, since its own end is waited for.)
   */
  keep(change: (memory: Memory) => Memory, signal: AbortSignal): Promise<boolean>;
  /**
   * A number for a report or receipt that was never used before and never will be again, whatever crashes. A report
   * does not wait for a journal that cannot be written now: the clock sees to it that the next life begins with a
   * higher number (open-memory.ts), or else the server tells.
   */
  nextSeq(what?: 'receipt' | 'report'): Promise<number>;
  /** All of them up to this one were used, by what this device was before it was put back to an older state. */
  skipSeq(used: number): void;
  /** For how long a write of the journal has been going on, in milliseconds; 0 when none does. */
  writingMs: () => number;
  /** Ends what is being done; nothing is recorded any more. */
  stop(): Promise<void>;
};

/** Numbers are reserved in the journal this many at a time. */
const SEQ_RESERVED = 1_000;
const QUEUE_MAX = 1_000;
/** A journal that can't be written, on a full disk for example: nothing is done until it can. */
const APPEND_BACKOFF: Backoff = { firstMs: 500, maxMs: 30_000 };
/** How often that is said again. */
const SAID_AGAIN_MS = 3_600_000;

export const openMachine = (options: MachineOptions): Machine => {
  const { journal, now, log } = options;
  let memory = options.memory;
  let usedSeq = memory.reportSeq;
  let activity: { abort: AbortController; ended: Promise<void> } | undefined;
  let queued = 0;
  let writingSince: number | undefined;
  /** Settled as long as the journal cannot be written. */
  let refused = Promise.withResolvers<void>();
  let saidAt = Number.NEGATIVE_INFINITY;
  let reserving: Promise<void> | undefined;
  const stopping = new AbortController();

  /** Changes, in order. */
  const inTurn = oneAtATime();

  /** `onRefusal` is called once, when the first attempt has failed. */
  const record = async (next: Memory, onRefusal?: () => void): Promise<void> => {
    for (let attempt = 0; ; attempt += 1) {
      stopping.signal.throwIfAborted();
      try {
        writingSince = performance.now();
        await journal.append(next).finally(() => {
          writingSince = undefined;
        });
        memory = next;
        if (attempt > 0) {
          refused = Promise.withResolvers<void>();
          saidAt = Number.NEGATIVE_INFINITY;
          log.info({ event: 'journal-written' }, 'the journal can be written again');
        }
        return;
      } catch (error) {
        refused.resolve();
        if (attempt === 0) onRefusal?.();
        if (performance.now() - saidAt >= SAID_AGAIN_MS) {
          saidAt = performance.now();
          log.error(
            { event: 'journal-not-written', err: error },
            'the journal cannot be written; waiting until it can',
          );
        }
        await sleep(backoffMs(attempt, APPEND_BACKOFF, 1), undefined, { signal: stopping.signal });
      }
    }
  };

  /** Numbers up to this one are recorded as used, in its turn. */
  const reserve = (seq: number): Promise<void> =>
    inTurn(async () => {
      if (seq > memory.reportSeq) await record({ ...memory, reportSeq: seq + SEQ_RESERVED });
    });
  /** For those who do not wait for it: one of these at a time is enough. */
  const reserveSometime = (seq: number): Promise<void> => {
    reserving ??= reserve(seq)
      .catch(() => undefined)
      .finally(() => {
        reserving = undefined;
      });
    return reserving;
  };

  const endActivity = async (): Promise<void> => {
    activity?.abort.abort();
    await activity?.ended;
    activity = undefined;
  };

  const begin = (effects: Effect[], onDone?: () => void): void => {
    const abort = new AbortController();
    const ended = (async () => {
      for (const effect of effects) {
        if (abort.signal.aborted) return;
        const event = await options
          .perform(effect, memory.install, abort.signal)
          .catch((error: unknown) => failed(effect, error, abort.signal));
        if (event !== undefined && !abort.signal.aborted) send(event);
      }
      if (!abort.signal.aborted) onDone?.();
    })().catch((error: unknown) => log.error({ event: 'effects-failed', err: error }, 'an effect failed unexpectedly'));
    activity = { abort, ended };
  };

  /**
   * What may be done about a state that cannot be recorded, so that the right application runs: a revert that is due,
   * or else booting what the boot selector names. Nothing else of a deployment goes on, and what this comes to is no
   * event: it is done again once there is a record.
   */
  const beginUnrecorded = ({ state }: InstallState, onDone: () => void): void => {
    const abort = new AbortController();
    const { signal } = abort;
    const effect = state === 'reverting' ? 'revert' : 'boot';
    const ended = (async () => {
      await options.perform(effect, memory.install, signal).catch((error: unknown) => failed(effect, error, signal));
      if (!signal.aborted) onDone();
    })();
    activity = { abort, ended };
  };

  const failed = (effect: Effect, error: unknown, signal: AbortSignal): EventOf | undefined => {
    if (signal.aborted) return undefined;
    log.error({ event: 'effect-failed', effect, err: error }, `${effect} failed unexpectedly`);
    return options.failureOf(effect, error);
  };

  const handle = async (event: EventOf): Promise<void> => {
    const before = memory;
    const { next, effects } = stepMemory(before, { ...event, at: now() });
    if (next === before) {
      if (event.kind !== 'restarted')
        log.debug(
          { event: 'event-ignored', kind: event.kind, state: before.install.state },
          `${event.kind}: nothing to do in ${before.install.state}`,
        );
      return;
    }
    // What still runs for the old state has no say any more. An event that only changes fields lets it go on.
    if (effects.length > 0 || next.install.state !== before.install.state) await endActivity();
    // A restart resumes a state that is recorded already, and what failed on trial must not run on: neither waits for a
    // disk with room.
    const isUrgent = event.kind === 'restarted' || next.install.state === 'reverting';
    let due = effects;
    const bootFirst = (): void =>
      beginUnrecorded(next.install, () => {
        due = effects.filter((effect) => effect !== 'boot');
      });
    await record({ ...next, reportSeq: Math.max(next.reportSeq, memory.reportSeq) }, isUrgent ? bootFirst : undefined);
    if (isUrgent) await endActivity();
    crashPoint(`journal.${next.install.state}`);
    await options.recorded(memory, before);
    if (due.length > 0) begin(due);
  };

  const send: Machine['send'] = (event) => {
    if (stopping.signal.aborted) return;
    if (queued >= QUEUE_MAX) {
      log.error({ event: 'queue-full', kind: event.kind }, 'too many events at once');
      return;
    }
    queued += 1;
    void inTurn(() => (stopping.signal.aborted ? Promise.resolve() : handle(event)))
      .catch((error: unknown) => {
        if (!stopping.signal.aborted) log.error({ event: 'step-failed', err: error }, `${event.kind} failed`);
      })
      .finally(() => {
        queued -= 1;
      });
  };

  return {
    memory: () => memory,
    send,
    keep: (change, signal) => {
      const { promise, resolve } = Promise.withResolvers<boolean>();
      const giveUp = (): void => resolve(false);
      if (signal.aborted) giveUp();
      signal.addEventListener('abort', giveUp);
      void inTurn(async () => {
        if (!signal.aborted) await record(change(memory));
        return !signal.aborted;
      })
        .then(resolve, giveUp)
        .finally(() => signal.removeEventListener('abort', giveUp));
      return promise;
    },
    nextSeq: async (what = 'receipt') => {
      usedSeq += 1;
      const seq = usedSeq;
      if (seq <= memory.reportSeq) return seq;
      if (what === 'receipt') await reserve(seq);
      else await Promise.race([reserveSometime(seq), refused.promise]);
      return seq;
    },
    skipSeq: (used) => {
      usedSeq = Math.max(usedSeq, used);
    },
    writingMs: () => (writingSince === undefined ? 0 : performance.now() - writingSince),
    stop: async () => {
      stopping.abort();
      await inTurn(async () => undefined);
      await endActivity();
      await inTurn(async () => undefined);
    },
  };
};

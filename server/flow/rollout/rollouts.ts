/**
 * Keeps rollouts going: the clock that runs those that are due, and the one place where the outbox is emptied. All
 * state is in the store, so a restart goes on where the last process stopped.
 */
import type { Id } from '#shared/ids.ts';
import { performEffects } from './perform-effects.ts';
import { CLOCK_MS, type RunDeps, runRollout } from './run-rollout.ts';

/** Outcomes arrive in bursts; what comes within this time is judged together. */
const COALESCE_MS = 25;
const DUE_MAX = 100;
const DUE_LISTED_MAX = 1_000;

export type Rollouts = {
  /**
   * Something happened that may matter to this rollout (or, without one, to the outbox): look soon, not only at the
   * next tick.
   */
  wake(rolloutId?: Id): void;
  /** Resolves when what is running has ended; nothing starts after that. */
  stop(): Promise<void>;
};

export type RolloutsDeps = RunDeps &
  Parameters<typeof performEffects>[0] & {
    /** Before anything is judged by it. */
    followClock?: () => Promise<unknown>;
    onError(error: unknown, rollout?: Id): void;
  };

export const startRollouts = (deps: RolloutsDeps): Rollouts => {
  const woken = new Set<Id>();
  /** In which round each was looked at last: those that wait, or fail, stay due, and must not take the others' turn. */
  let looked = new Map<Id, number>();
  let rounds = 0;
  /** Those that wait are due all the time: looked at when the clock says so, not whenever another one is woken. */
  let clockSays = true;
  let running: Promise<void> | undefined;
  let again = false;
  let stopped = false;
  let soon: NodeJS.Timeout | undefined;

  const attempt = async (work: () => Promise<unknown>, rollout?: Id): Promise<void> => {
    try {
      await work();
    } catch (error) {
      // One rollout that fails must not stop the others. It stays due, so it is tried again at the next tick.
      deps.onError(error, rollout);
    }
  };
  const longestDue = async (): Promise<Id[]> => {
    const due = await deps.store.listDueRollouts(deps.now(), DUE_LISTED_MAX);
    looked = new Map(due.map(({ plan: { id } }) => [id, looked.get(id) ?? 0]));
    return [...looked]
      .sort(([, a], [, b]) => a - b)
      .map(([id]) => id)
      .slice(0, DUE_MAX);
  };
  const round = async (): Promise<void> => {
    if (deps.followClock !== undefined) await attempt(deps.followClock);
    const ids = new Set(woken);
    woken.clear();
    if (clockSays) {
      clockSays = false;
      await attempt(async () => {
        for (const id of await longestDue()) ids.add(id);
      });
    }
    rounds += 1;
    for (const id of ids) {
      if (stopped) return;
      looked.set(id, rounds);
      await attempt(() => runRollout(deps, id), id);
    }
    if (!stopped) await attempt(() => performEffects(deps));
  };
  /** Never two rounds at once; what happens during a round is seen by the next. */
  const run = (): void => {
    clearTimeout(soon);
    soon = undefined;
    if (stopped) return;
    if (running !== undefined) {
      again = true;
      return;
    }
    running = round().finally(() => {
      running = undefined;
      if (again) {
        again = false;
        run();
      }
    });
  };

  const clock = setInterval(() => {
    clockSays = true;
    run();
  }, CLOCK_MS);
  run();
  return {
    wake: (rolloutId) => {
      if (stopped) return;
      if (rolloutId !== undefined) woken.add(rolloutId);
      soon ??= setTimeout(run, COALESCE_MS);
    },
    stop: async () => {
      stopped = true;
      clearInterval(clock);
      clearTimeout(soon);
      await running;
    },
  };
};

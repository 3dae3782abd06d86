/**
 * The clock was set: what rollouts count from moves along. Otherwise a clock that is put forward would make every
 * device overdue at once and halt a good release, and one that is put back would leave nothing to be judged for as
 * long.
 */
import { auditLine, BY_SERVER } from '#server/domain/audit.ts';
import type { Store } from '#server/store/store.ts';

export type MovedTimes = { stepMs: number; rollouts: number; deployments: number };

/** `at`: by the clock as it was set. */
export const moveTimes = async (store: Pick<Store, 'moveTimes'>, stepMs: number, at: number): Promise<MovedTimes> => {
  const audit = auditLine({ at, by: BY_SERVER, kind: 'clock-set', stepMs });
  return { stepMs, ...(await store.moveTimes(stepMs, at, [audit])) };
};

/** Undefined as long as it was not set. Until the times have moved the server goes by its old clock. */
export const followClock = async (deps: {
  store: Pick<Store, 'moveTimes'>;
  /** Goes on evenly; `stepMs` is how far the machine's clock is from it, until it is followed. */
  clock: { now(): number; stepMs(): number; follow(stepMs: number): void };
}): Promise<MovedTimes | undefined> => {
  const stepMs = deps.clock.stepMs();
  if (stepMs === 0) return undefined;
  const moved = await moveTimes(deps.store, stepMs, deps.clock.now() + stepMs);
  deps.clock.follow(stepMs);
  return moved;
};

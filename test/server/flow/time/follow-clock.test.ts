import { expect, test } from 'vitest';
import { parseAuditEvent } from '#server/domain/audit.ts';
import { followClock } from '#server/flow/time/follow-clock.ts';
import { openSteadyClock } from '#server/steady-clock.ts';
import type { Id } from '#shared/ids.ts';
import { deploymentsOf, enrolFleet, releaseOf, report, run, startRollout, worldOfEachTest } from '../world.ts';

const MINUTE = 60_000;
const world = worldOfEachTest();

/** The world's time goes on; the wall clock is also set. */
const clockOfWorld = () => {
  const set = { byMs: 0 };
  const clock = openSteadyClock(() => world.now() + set.byMs, world.now);
  return { set, deps: { ...world, clock, now: clock.now } };
};
const stateOf = async (rollout: Id) => (await world.store.getRollout(rollout))!.progress;

for (const [words, byMs] of [
  ['an hour forward', 60 * MINUTE],
  ['an hour back', -60 * MINUTE],
  ['a year forward', 525_600 * MINUTE],
  ['a year back', -525_600 * MINUTE],
] as const) {
  test(`the server's clock is set ${words}: no device is overdue, a soak goes on, and silence is still judged in time`, async () => {
    await enrolFleet(world, 2);
    await releaseOf(world, '1.0.0');
    const rollout = await startRollout(world, '1.0.0');
    const { set, deps } = clockOfWorld();
    const [first, second] = await deploymentsOf(world, rollout);
    await report(world, first!, { state: 'trial' });
    await report(world, second!, { state: 'trial' });
    world.pass(MINUTE);
    const due = (await deploymentsOf(world, rollout)).map(({ deadlineAt }) => deadlineAt! - deps.now());
    set.byMs += byMs;
    expect(await followClock(deps)).toMatchObject({ stepMs: byMs, rollouts: 1, deployments: 2 });
    expect((await deploymentsOf(world, rollout)).map(({ deadlineAt }) => deadlineAt! - deps.now())).toEqual(due);
    expect(await followClock(deps)).toBeUndefined();
    const told = (await world.store.readAudit(-1, 10_000)).map(({ payload }) => parseAuditEvent(payload));
    expect(told.filter((line) => line?.kind === 'clock-set')).toMatchObject([
      { by: 'server', stepMs: byMs, at: deps.now() },
    ]);
    await run(deps, rollout);
    expect((await stateOf(rollout)).state).toBe('running');
    world.pass(Math.max(...due) + 1);
    await run(deps, rollout);
    expect((await stateOf(rollout)).state).toBe('halted');
  });
}

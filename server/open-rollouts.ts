/** The rollouts that are open: each is looked at when something moved, or when its time has come. */
import type { Logger } from 'pino';
import type { Signer } from '#shared/trust/signers.ts';
import type { Closers } from './closers.ts';
import type { DeviceLink } from './flow/device/device-link.ts';
import { type Rollouts, startRollouts } from './flow/rollout/rollouts.ts';
import { followClock } from './flow/time/follow-clock.ts';
import { warnClockSet } from './log.ts';
import type { SteadyClock } from './steady-clock.ts';
import type { Store } from './store/store.ts';

export const openRollouts = (
  deps: { store: Store; clock: SteadyClock; log: Logger; director: Signer; link: DeviceLink },
  closers: Closers,
): Rollouts => {
  const { store, clock, log, director, link } = deps;
  const rollouts = startRollouts({
    store,
    now: clock.now,
    director,
    link,
    followClock: async () => {
      const moved = await followClock({ store, clock });
      if (moved !== undefined) warnClockSet(log, moved);
    },
    onError: (error, rolloutId) =>
      log.error({ event: 'rollout-failed', rolloutId, err: error }, 'a rollout could not go on; it is tried again'),
  });
  closers.add(() => rollouts.stop());
  return rollouts;
};

/**
 * Over how long the fleet is to come back after this server was away, so that it can take all of them: told to devices,
 * which wait that long at most before they connect again.
 */
import type { Store } from '#server/store/store.ts';

/** Below that devices spread well enough by themselves. */
const TOLD_MS_MIN = 1_000;
const SPREAD_MS_MAX = 600_000;
const KNOWN_MS = 60_000;

/** Undefined: no need to say anything. */
export const spreadFor = (devices: number, connectsPerSecond: number): number | undefined => {
  const ms = Math.min(SPREAD_MS_MAX, Math.ceil(devices / connectsPerSecond) * 1_000);
  return ms <= TOLD_MS_MIN ? undefined : ms;
};

/** What is to be told now. The devices are counted again once a minute at most, and meanwhile the last count holds. */
export const makeSpread = async (deps: {
  store: Pick<Store, 'countDevices'>;
  connectsPerSecond: number;
  onError: (error: unknown) => void;
}): Promise<() => number | undefined> => {
  const count = async (): Promise<number> =>
    (await deps.store.countDevices())
      .filter(({ state }) => state === 'accepted')
      .reduce((sum, { devices }) => sum + devices, 0);
  let devices = await count();
  let countedAt = performance.now();
  return () => {
    if (performance.now() - countedAt >= KNOWN_MS) {
      countedAt = performance.now();
      void count().then((next) => {
        devices = next;
      }, deps.onError);
    }
    return spreadFor(devices, deps.connectsPerSecond);
  };
};

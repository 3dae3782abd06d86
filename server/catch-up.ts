/** What changed while no server ran, and what the next one will have to know of this one. Before anything is judged. */
import type { Logger } from 'pino';
import { machineUptime } from '#shared/machine-uptime.ts';
import type { Closers } from './closers.ts';
import { grantGrace, noteAlive } from './flow/rollout/grant-grace.ts';
import { warnClockSet } from './log.ts';
import type { Store } from './store/store.ts';

export const catchUp = async (
  { store, now, log }: { store: Store; now: () => number; log: Logger },
  graceMsMax: number,
  closers: Closers,
): Promise<void> => {
  // No one is connected yet, whatever the last process wrote, and no one is connected any more when this one has ended.
  await store.setAllOffline();
  closers.add(() => store.setAllOffline());
  // Devices that were on trial while no one listened are late, not silent.
  const grace = await grantGrace({ store, now, uptime: machineUptime }, graceMsMax);
  if (grace.stepMs !== 0) warnClockSet(log, grace);
  if (grace.deployments > 0)
    log.info({ event: 'grace-granted', ...grace }, 'deadlines were moved: the server was away');
  closers.add(() => noteAlive({ store, now, uptime: machineUptime }));
};

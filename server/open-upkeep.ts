/**
 * What goes on beside requests and messages: packs are made, uploads that were given up expire, and the house is kept.
 */
import type { Logger } from 'pino';
import { machineUptime } from '#shared/machine-uptime.ts';
import type { Closers } from './closers.ts';
import type { ServerConfig } from './config.ts';
import { openUploads, type Uploads } from './flow/release/accept-upload.ts';
import { type Packs, type PacksDeps, startPacks } from './flow/release/packs.ts';
import { type HousekeepingDeps, startHousekeeping } from './housekeeping.ts';
import type { Metrics } from './http/metrics.ts';
import type { Data } from './open-data.ts';

export type Upkeep = { uploads: Uploads; packs: Packs };

export const openUpkeep = (
  config: Pick<ServerConfig, 'dataDir' | 'packs' | 'decisions'>,
  { store, repository, objects, keyring }: Data,
  { now, log, metrics }: { now: () => number; log: Logger; metrics: Metrics },
  closers: Closers,
): Upkeep => {
  const uploads = openUploads({ objects, now: () => performance.now() });
  const { bytesMax } = config.packs;
  const packs = startPacks({ store, objects, dataDir: config.dataDir, now, bytesMax, report: reportPacks(log) });
  closers.add(() => packs.stop());
  const housekeeping = startHousekeeping({
    store,
    repository,
    objects,
    uploads,
    packs,
    log: keyring.log,
    now,
    uptime: machineUptime,
    decisionsKeptDays: config.decisions.keptDays,
    report: reportHousekeeping(log, metrics),
  });
  closers.add(() => housekeeping.stop());
  return { uploads, packs };
};

const reportPacks = (log: Logger): PacksDeps['report'] => ({
  made: (pack) => log.info({ event: 'pack-made', ...pack }, 'a pack was made'),
  failed: (error) => log.error({ event: 'pack-failed', err: error }, 'a pack was not made; devices fetch chunks'),
});

const reportHousekeeping = (log: Logger, metrics: Metrics): HousekeepingDeps['report'] => ({
  done: (task) => metrics.housekeeping(task, 'done'),
  failed: (task, error) => {
    metrics.housekeeping(task, 'failed');
    log.error({ event: 'housekeeping-failed', task, err: error }, `${task} failed; it is tried again later`);
  },
  miscounted: (rolloutId) => {
    metrics.miscounted();
    log.error({ event: 'miscounted', rolloutId }, 'the counters of a rollout are not what its rows say: a bug');
  },
});

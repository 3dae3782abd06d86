/** What devices say: their reports wake rollouts, and the last lines of their logs are kept. */
import type { Logger } from 'pino';
import type { Closers } from './closers.ts';
import { type Ingest, makeIngest } from './flow/device/ingest.ts';
import { type LogKeeper, makeLogKeeper } from './flow/device/keep-logs.ts';
import type { Rollouts } from './flow/rollout/rollouts.ts';
import type { Devices } from './open-devices.ts';
import type { Store } from './store/store.ts';

export const openIngest = (
  { store, now, log, rollouts }: { store: Store; now: () => number; log: Logger; rollouts: Rollouts },
  { connections, sharedKeys, metrics }: Pick<Devices, 'connections' | 'sharedKeys' | 'metrics'>,
  closers: Closers,
): { ingest: Ingest; logs: LogKeeper } => {
  const logs = makeLogKeeper({ store, now, log });
  closers.add(() => logs.stop());
  const ingest = makeIngest({
    store,
    link: connections.link,
    now,
    log,
    observer: metrics.observer,
    keepLog: logs.overMqtt((device, ack) => connections.acknowledgeLog(device, ack)),
    heard: sharedKeys.heard,
    wake: (rollout) => rollouts.wake(rollout),
  });
  closers.add(() => ingest.stop());
  return { ingest, logs };
};

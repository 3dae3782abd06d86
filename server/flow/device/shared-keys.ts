/**
 * Finds out that two devices use one key, over MQTT and HTTP alike, and says so: once in the log and the audit log for
 * each time that it begins.
 */
import type { Logger } from 'pino';
import { auditLine, BY_SERVER } from '#server/domain/audit.ts';
import { type Boots, hear } from '#server/domain/device/boots.ts';
import type { Store } from '#server/store/store.ts';
import type { Id } from '#shared/ids.ts';
import type { Observer } from './observer.ts';

/** A hundred bytes or two each. The one that was heard first goes. */
const DEVICES_MAX = 100_000;
/** They may throw each other out every second: what is known already is written down again this often. */
const NOTED_EVERY_MS = 300_000;

export type SharedKeys = {
  /** The device spoke in this life, over a connection that is open now. Never throws, never waits. */
  heard: (device: Id, boot: Id) => void;
  /** Whatever speaks from now on has nothing to do with what spoke before. */
  forget: (device: Id) => void;
  /** Resolves when everything heard so far is written. */
  stop(): Promise<void>;
};

export const watchSharedKeys = (deps: {
  store: Pick<Store, 'noteSharedKey'>;
  now: () => number;
  observer: Pick<Observer, 'keyShared'>;
  log: Pick<Logger, 'warn' | 'error'>;
}): SharedKeys => {
  const heard = new Map<Id, Boots & { notedAt?: number }>();
  let writing: Promise<void> = Promise.resolve();

  const note = async (device: Id, at: number): Promise<void> => {
    const line = auditLine({ at, by: BY_SERVER, kind: 'key-shared', device });
    if ((await deps.store.noteSharedKey(device, at, line)) !== 'began') return;
    deps.observer.keyShared();
    deps.log.warn(
      { event: 'key-shared', deviceId: device },
      `two devices use the key of ${device}: neither is offered anything until one of them has another key and another id`,
    );
  };
  return {
    heard: (device, boot) => {
      const known = heard.get(device);
      const { next, returned } = hear(known, boot);
      const now = deps.now();
      const isDue = returned && Math.abs(now - (known?.notedAt ?? Number.NEGATIVE_INFINITY)) >= NOTED_EVERY_MS;
      if (next === known) return;
      heard.delete(device);
      const notedAt = isDue ? now : known?.notedAt;
      heard.set(device, notedAt === undefined ? next : { ...next, notedAt });
      const [oldest] = heard.keys();
      if (heard.size > DEVICES_MAX && oldest !== undefined) heard.delete(oldest);
      if (!isDue) return;
      writing = writing
        .then(() => note(device, now))
        .catch((error: unknown) =>
          deps.log.error(
            { event: 'key-shared', deviceId: device, err: error },
            'that two devices use one key could not be noted',
          ),
        );
    },
    forget: (device) => void heard.delete(device),
    stop: () => writing,
  };
};

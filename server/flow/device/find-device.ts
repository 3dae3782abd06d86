/**
 * One question to the store for all devices that are asked about at once: a fleet that reconnects logs in by the
 * thousand.
 */

import type { DeviceRecord } from '#server/store/devices.ts';
import type { Store } from '#server/store/store.ts';
import type { Id } from '#shared/ids.ts';

const DEVICES_MAX = 500;

export type FindDevice = (id: Id) => Promise<DeviceRecord | undefined>;
type Waiting = { id: Id; found: PromiseWithResolvers<DeviceRecord | undefined> };

/** What is asked for in the same turn of the event loop is asked for together; nothing is remembered. */
export const gatherDevices = (store: Pick<Store, 'getDevices'>): FindDevice => {
  let waiting: Waiting[] = [];
  const ask = async (batch: Waiting[]): Promise<void> => {
    try {
      const records = await store.getDevices([...new Set(batch.map(({ id }) => id))]);
      const byId = new Map(records.map((record) => [record.id, record]));
      for (const { id, found } of batch) found.resolve(byId.get(id));
    } catch (error) {
      for (const { found } of batch) found.reject(error);
    }
  };
  const askAll = (): void => {
    const all = waiting;
    waiting = [];
    for (let start = 0; start < all.length; start += DEVICES_MAX) void ask(all.slice(start, start + DEVICES_MAX));
  };
  return (id) => {
    const found = Promise.withResolvers<DeviceRecord | undefined>();
    if (waiting.push({ id, found }) === 1) setImmediate(askAll);
    return found.promise;
  };
};

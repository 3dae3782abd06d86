/** The devices that are connected: what reaches them, who they are, and what is counted of them. */
import type { Logger } from 'pino';
import type { Closers } from './closers.ts';
import type { ServerConfig } from './config.ts';
import { type DeviceBlocks, openDeviceBlocks } from './device-blocks.ts';
import { type FindDevice, gatherDevices } from './flow/device/find-device.ts';
import { type SharedKeys, watchSharedKeys } from './flow/device/shared-keys.ts';
import { makeSpread } from './flow/device/spread.ts';
import { type Metrics, makeMetrics } from './http/metrics.ts';
import { type Connections, makeConnections } from './mqtt/connections.ts';
import type { Store } from './store/store.ts';

export type Devices = {
  connections: Connections;
  /** Over what width they reconnect; devices are told. */
  spreadMs: () => number | undefined;
  findDevice: FindDevice;
  sharedKeys: SharedKeys;
  blocks: DeviceBlocks;
  metrics: Metrics;
};

export const openDevices = async (
  mqtt: ServerConfig['mqtt'],
  { store, now, log, version }: { store: Store; now: () => number; log: Logger; version: string },
  closers: Closers,
): Promise<Devices> => {
  const spreadMs = await makeSpread({
    store,
    connectsPerSecond: mqtt.connectsPerSecond,
    onError: (error) => log.error({ event: 'devices-not-counted', err: error }, 'the devices could not be counted'),
  });
  const connected = makeConnections(spreadMs);
  const metrics = makeMetrics({ store, connectedDevices: () => connected.count(), version });
  const { observer } = metrics;
  const sharedKeys = watchSharedKeys({ store, now, observer, log });
  closers.add(() => sharedKeys.stop());
  const connections = forgettingBoots(connected, sharedKeys);
  const findDevice = gatherDevices(store);
  const blocks = openDeviceBlocks({
    bytesPerSecond: mqtt.blockBytesPerSecond,
    connections,
    findDevice,
    observer,
    log,
  });
  return { connections, spreadMs, findDevice, sharedKeys, blocks, metrics };
};

/** A device that is shut out or replaced: the next to speak under its id is heard for the first time. */
const forgettingBoots = (connections: Connections, { forget }: SharedKeys): Connections => ({
  ...connections,
  link: {
    ...connections.link,
    disconnect: (device) => {
      connections.link.disconnect(device);
      forget(device);
    },
  },
});

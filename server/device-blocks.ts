/** Puts blocks over MQTT together with the HTTP application that answers them. */
import type { FastifyInstance } from 'fastify';
import type { Logger } from 'pino';
import { BLOCK_BYTES_MAX } from '#shared/blocks.ts';
import type { FindDevice } from './flow/device/find-device.ts';
import type { Observer } from './flow/device/observer.ts';
import { makePasses, type Passes, readAs } from './http/inner.ts';
import { type BlockServer, serveBlocks } from './mqtt/blocks.ts';
import type { Connections } from './mqtt/connections.ts';

export type DeviceBlocks = BlockServer & {
  checkPass: Passes['check'];
  /** Until then nothing is answered but 503. */
  answerWith(app: FastifyInstance): void;
  /** How many requests a second of one device can be answered. */
  perSecond: number;
};

export const openDeviceBlocks = (deps: {
  bytesPerSecond: number;
  connections: Pick<Connections, 'sendBlock'>;
  findDevice: FindDevice;
  observer: Pick<Observer, 'refused'>;
  log: Pick<Logger, 'error'>;
}): DeviceBlocks => {
  const passes = makePasses(deps.findDevice);
  let app: FastifyInstance | undefined;
  const blocks = serveBlocks({
    read: async (device, request) =>
      app === undefined ? { status: 503, bytes: new Uint8Array(0), total: 0 } : readAs(app, passes.of(device), request),
    send: (device, message) => deps.connections.sendBlock(device, message),
    rate: { burst: Math.max(BLOCK_BYTES_MAX, deps.bytesPerSecond), perSecond: deps.bytesPerSecond },
    onDropped: (why) => deps.observer.refused(why),
    onError: (error) => deps.log.error({ event: 'block-failed', err: error }, 'a block could not be read'),
  });
  return {
    ...blocks,
    checkPass: passes.check,
    answerWith: (ready) => {
      app = ready;
    },
    // Small documents come in small requests.
    perSecond: Math.ceil(deps.bytesPerSecond / BLOCK_BYTES_MAX) * 4,
  };
};

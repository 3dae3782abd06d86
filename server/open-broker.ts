/** The broker: MQTT as devices reach it. */
import type { Logger } from 'pino';
import { MqttUrl } from '#shared/mqtt-url.ts';
import type { Signer } from '#shared/trust/signers.ts';
import { networkUrl } from './addresses.ts';
import type { Closers } from './closers.ts';
import type { ServerConfig } from './config.ts';
import { authenticateDevice } from './flow/device/authenticate-device.ts';
import { makeGreeter } from './flow/device/greet-device.ts';
import type { Ingest } from './flow/device/ingest.ts';
import { type BrokerOptions, startBroker } from './mqtt/broker.ts';
import type { Devices } from './open-devices.ts';
import { explainListen, StartFailure } from './start-failure.ts';
import type { Store } from './store/store.ts';

/** Gives the address that enrolling devices are told. */
export const openBroker = async (
  mqtt: ServerConfig['mqtt'],
  deps: {
    tls: BrokerOptions['tls'];
    store: Store;
    now: () => number;
    log: Logger;
    director: Signer;
    devices: Devices;
    ingest: Ingest;
  },
  closers: Closers,
): Promise<string> => {
  const { tls, store, now, log, director, devices, ingest } = deps;
  const { connections, findDevice, blocks, metrics } = devices;
  const greeter = makeGreeter({ store, link: connections.link, now, log, director });
  closers.add(() => greeter.stop());
  const { host, port, connectionsMax, connectionsPerAddressMax, messagesPerSecond, messagesBurst } = mqtt;
  const broker = await startBroker(
    {
      host,
      port,
      tls,
      connectionsMax,
      connectionsPerAddressMax,
      rate: { burst: messagesBurst, perSecond: messagesPerSecond },
      blocksPerSecond: blocks.perSecond,
      log,
      observer: metrics.observer,
    },
    connections,
    {
      authenticate: (login) => authenticateDevice({ findDevice, now }, login),
      presence: (device, online) => {
        if (!online) blocks.forget(device);
        ingest.presence(device, online);
      },
      wantsDesired: (device) => greeter.greet(device),
      message: (device, channel, payload, live) =>
        channel === 'block' ? blocks.receive(device, payload) : ingest.message(device, channel, payload, live),
    },
  ).catch((error: unknown) => {
    throw explainListen(error, 'MQTT', { host, port });
  });
  closers.add(() => broker.stop());
  const url = mqtt.publicUrl ?? networkUrl(tls === undefined ? 'mqtt' : 'mqtts', host, broker.port);
  if (!MqttUrl.safeParse(url).success)
    throw new StartFailure(`devices cannot use ${url} as the address of MQTT: name another with --mqtt-public-url`);
  return url;
};

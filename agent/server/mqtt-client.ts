/** mqtt.js over a connection of its own, or over one that leads through a proxy. */
import { isIP, type Socket } from 'node:net';
import { connect } from 'node:tls';
import mqtt, { type IClientOptions, type MqttClient } from 'mqtt';
import type { MqttAddress } from '#shared/mqtt-url.ts';

export const connectMqtt = (address: MqttAddress, tunnel: Socket | undefined, options: IClientOptions): MqttClient => {
  if (tunnel === undefined) return mqtt.connect({ ...options, ...address });
  const { protocol, host } = address;
  const isSecure = protocol === 'mqtts' || protocol === 'wss';
  const stream = isSecure
    ? connect({ socket: tunnel, host, ...(isIP(host) === 0 ? { servername: host } : {}) })
    : tunnel;
  if (protocol === 'mqtt' || protocol === 'mqtts') return new mqtt.MqttClient(() => stream, { ...options, protocol });
  return mqtt.connect({ ...options, ...address, wsOptions: { createConnection: () => stream } });
};

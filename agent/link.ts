/**
 * The MQTT connection. mqtt.js reconnects at a fixed interval and not at all after a refused CONNACK, so each attempt here is a
 * client of its own: with a fresh login, after a wait with full jitter. Nothing is queued: what matters is repeated by agent/report.ts.
 */
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import mqtt, { type MqttClient } from 'mqtt';
import type { Id } from '#shared/ids.ts';
import { Ack, Desired, LogAck, MESSAGE_BYTES_MAX, type Online, parseMessage } from '#shared/messages.ts';
import { DOWN, type DownChannel, down, type UpChannel, up } from '#shared/topics.ts';
import { type Backoff, backoffMs } from './domain/retry.ts';
import type { Log } from './log.ts';
import type { HttpGet } from './request.ts';
import { type Blocks, openBlocks } from './transfer/blocks.ts';

export type LinkOptions = {
  /** Asked before each attempt: it may change. */
  url(): string;
  device: Id;
  /** A fresh login token. */
  login(): string;
  boot: Id;
  backoff: Backoff;
  log: Log;
  on: {
    /** Subscribed: now messages get through. */
    connected(): void;
    /** `refused`: the server does not want this login. */
    disconnected(refused: boolean): void;
    desired(desired: Desired): void;
    ack(ack: Ack): void;
    logAck(ack: LogAck): void;
  };
};

export type Link = {
  connected(): boolean;
  /** False when there is no connection. QoS 1 for `state` and `online`, 0 for all else; a promise of nothing either way. */
  publish(channel: UpChannel, message: object): boolean;
  /** What is otherwise read over HTTP; fails while there is no connection. */
  blocks: HttpGet;
  /** Says goodbye and closes. */
  stop(): Promise<void>;
};

const CONNECT_MS_MAX = 20_000;
const KEEPALIVE_S = 45;
/** A connection that lived this long clears the count of attempts. */
const STABLE_MS = 60_000;
const GOODBYE_MS_MAX = 1_000;

export const openLink = (options: LinkOptions): Link => {
  const stopping = new AbortController();
  let client: MqttClient | undefined;

  const publish: Link['publish'] = (channel, message) => {
    if (client?.connected !== true) return false;
    const text = JSON.stringify(message);
    if (text.length > MESSAGE_BYTES_MAX) return false;
    client.publish(up(options.device, channel), text, { qos: qosOf(channel) }, () => undefined);
    return true;
  };

  const blocks = openBlocks({ publish: (request) => publish('block', request) });
  const connecting = (async () => {
    for (let attempt = 0; !stopping.signal.aborted; attempt += 1) {
      const began = performance.now();
      await live({ ...options, blocks }, stopping.signal, (ready) => {
        client = ready;
      });
      if (performance.now() - began > STABLE_MS) attempt = 0;
      const waitMs = backoffMs(attempt, options.backoff, Math.random());
      await sleep(waitMs, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  })();

  return {
    connected: () => client?.connected === true,
    publish,
    blocks: blocks.get,
    stop: async () => {
      stopping.abort();
      await connecting;
    },
  };
};

const PROTOCOLS = ['mqtt', 'mqtts', 'ws', 'wss'] as const;

/** mqtt.js itself would take the address apart with what Node warns of (DEP0169). */
const addressOf = (url: string) => {
  const { protocol, hostname, port, pathname, search } = new URL(url);
  return {
    protocol: PROTOCOLS.find((known) => `${known}:` === protocol) ?? 'mqtts',
    // Without the brackets of an IPv6 address.
    host: hostname.replace(/^\[(.*)\]$/, '$1'),
    ...(port === '' ? {} : { port: Number(port) }),
    path: `${pathname}${search}`,
  };
};

const qosOf = (channel: UpChannel): 0 | 1 => (channel === 'state' || channel === 'online' ? 1 : 0);

type LiveOptions = LinkOptions & { blocks: Blocks };

/** One connection from its beginning to its end. `hold` gets the client while messages get through. */
const live = async (
  options: LiveOptions,
  signal: AbortSignal,
  hold: (client: MqttClient | undefined) => void,
): Promise<void> => {
  const { device, boot, log, on } = options;
  const url = options.url();
  const online = (is: boolean): Online => ({ boot, online: is });
  const client = mqtt.connect({
    ...addressOf(url),
    clientId: device,
    username: device,
    password: options.login(),
    protocolVersion: 4,
    clean: true,
    reconnectPeriod: 0,
    connectTimeout: CONNECT_MS_MAX,
    keepalive: KEEPALIVE_S,
    queueQoSZero: false,
    // 65,536 small buffers, made once, are 7 MB of a device's memory.
    writeCache: false,
    resubscribe: false,
    will: { topic: up(device, 'online'), payload: Buffer.from(JSON.stringify(online(false))), qos: 1, retain: false },
  });
  let refused = false;
  let held = false;
  const ended = new Promise<void>((resolve) => {
    client.on('error', (error) => {
      refused ||= 'code' in error && (error.code === 4 || error.code === 5);
      log.debug({ event: 'mqtt-error', url, err: error }, `MQTT: ${error.message}`);
    });
    client.once('close', () => resolve());
    client.once('end', () => resolve());
    client.on('message', (topic, payload) => receive(options, topic, payload));
    client.once('connect', () => {
      // mqtt.js leaves Nagle's algorithm on, which holds small messages back.
      if (client.stream instanceof Socket) client.stream.setNoDelay(true);
      client.subscribe(
        DOWN.map((channel) => down(device, channel)),
        { qos: 1 },
        (error, granted) => {
          if (error || granted?.some(({ qos }) => qos === 128) !== false) {
            client.end(true);
            return;
          }
          client.publish(up(device, 'online'), JSON.stringify(online(true)), { qos: 1 });
          held = true;
          hold(client);
          log.info({ event: 'connected', url }, `connected to ${url}`);
          on.connected();
        },
      );
    });
  });
  const goodbye = (): void => {
    if (client.connected) client.publish(up(device, 'online'), JSON.stringify(online(false)), { qos: 0 });
    client.end(false);
    setTimeout(() => client.end(true), GOODBYE_MS_MAX).unref();
  };
  signal.addEventListener('abort', goodbye, { once: true });
  await ended;
  signal.removeEventListener('abort', goodbye);
  hold(undefined);
  client.end(true);
  client.removeAllListeners('message');
  if (held) log.info({ event: 'disconnected' }, 'disconnected');
  if (!signal.aborted) on.disconnected(refused);
};

const receive = ({ device, log, on, blocks }: LiveOptions, topic: string, payload: Buffer): void => {
  const is = (channel: DownChannel): boolean => topic === down(device, channel);
  if (is('block')) return blocks.receive(payload);
  const desired = is('desired') ? parseMessage(Desired, payload) : undefined;
  const ack = is('ack') ? parseMessage(Ack, payload) : undefined;
  if (desired !== undefined) return on.desired(desired);
  if (ack !== undefined) return on.ack(ack);
  const logAck = is('ack') ? parseMessage(LogAck, payload) : undefined;
  if (logAck !== undefined) return on.logAck(logAck);
  return log.warn({ event: 'message-dropped', topic }, `a message on ${topic} could not be understood`);
};

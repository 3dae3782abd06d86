/**
 * The MQTT connection. mqtt.js reconnects at a fixed interval and not at all after a refused CONNACK, so each attempt
 * here is a client of its own: with a fresh login, after a wait with full jitter. Nothing is queued: what matters is
 * repeated by agent/report/report.ts.
 */
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Id } from '#shared/ids.ts';
import { Ack, Desired, LogAck, MESSAGE_BYTES_MAX, type Online, parseMessage } from '#shared/messages.ts';
import { parseMqttUrl } from '#shared/mqtt-url.ts';
import { DOWN, type DownChannel, down, type UpChannel, up } from '#shared/topics.ts';
import { type Backoff, backoffMs } from '../domain/backoff.ts';
import { spreadBackoff } from '../domain/spread.ts';
import type { Log } from '../log.ts';
import { type Blocks, openBlocks } from './blocks.ts';
import { connectMqtt } from './mqtt-client.ts';
import type { ProxyFor } from './proxy.ts';
import type { HttpGet } from './request.ts';
import { openTunnel } from './tunnel.ts';

export type LinkOptions = {
  /** Asked before each attempt: it may change. Undefined while none is known that can be used. */
  url(): string | undefined;
  device: Id;
  /** A fresh login token. */
  login(): string;
  boot: Id;
  backoff: Backoff;
  /** Over how long the fleet comes back after a loss. Default 0. */
  spreadMs?: () => number;
  waits?: LinkWaits;
  proxyFor?: ProxyFor;
  log: Log;
  on: {
    /** Subscribed: now messages get through. */
    connected(): void;
    /** `refused`: the server does not want this login, or there is no address: over HTTP it says more. */
    disconnected(refused: boolean, why: string): void;
    /** Undefined: what came cannot be understood. */
    desired(desired: Desired | undefined): void;
    ack(ack: Ack): void;
    logAck(ack: LogAck): void;
  };
};

export type Link = {
  connected: () => boolean;
  /**
   * False when there is no connection. QoS 1 for `state` and `online`, 0 for all else; a promise of nothing either way.
   */
  publish(channel: UpChannel, message: object): boolean;
  /** What is otherwise read over HTTP; fails while there is no connection. */
  blocks: HttpGet;
  /** Says goodbye and closes. */
  stop(): Promise<void>;
};

/**
 * How long the other end may take before the connection counts as lost. It may be there and say nothing, or be gone
 * without a word.
 */
type LinkWaits = {
  /** From the first packet to subscribed: name server, TCP, TLS, the upgrade to WebSockets, CONNACK, SUBACK. */
  readyMs: number;
  /** For the PUBACK of each message with QoS 1. */
  ackMs: number;
  /** When nothing has come for so long a PINGREQ goes out; its answer may take half as long. */
  keepaliveS: number;
};
const WAITS: LinkWaits = { readyMs: 30_000, ackMs: 60_000, keepaliveS: 45 };
/** A connection that lived this long clears the count of attempts. */
const STABLE_MS = 60_000;
const GOODBYE_MS_MAX = 1_000;

export const openLink = (options: LinkOptions): Link => {
  const { log, on } = options;
  const stopping = new AbortController();
  let connection: Connection | undefined;
  let toldWhy: string | undefined;

  const publish: Link['publish'] = (channel, message) => {
    if (connection?.connected() !== true) return false;
    const text = JSON.stringify(message);
    if (text.length > MESSAGE_BYTES_MAX) return false;
    connection.publish(channel, text);
    return true;
  };
  /** Once for each reason: the same server may be away for days. */
  const tellWhy = (why: string): void => {
    const line = { event: 'not-connected', url: options.url(), why };
    if (why === toldWhy) log.debug(line, `MQTT: ${why}`);
    else log.warn(line, `MQTT cannot be reached, the server is asked over HTTP meanwhile: ${why}`);
    toldWhy = why;
  };

  const blocks = openBlocks({ publish: (request) => publish('block', request) });
  /** How long it was connected; 0 when it never was. */
  const attempt = async (): Promise<number> => {
    let heldAt: number | undefined;
    const hold = (held: Connection | undefined): void => {
      if (held !== undefined) heldAt = performance.now();
      connection = held;
    };
    // What throws is a failed attempt, whatever it is: the next one comes.
    const end = await live({ ...options, blocks }, stopping.signal, hold).catch(
      (error: unknown): End => ({ why: error instanceof Error ? error.message : String(error), refused: false }),
    );
    connection = undefined;
    if (heldAt !== undefined) {
      toldWhy = undefined;
      log.info({ event: 'disconnected', why: end.why }, `disconnected: ${end.why}`);
    } else if (!stopping.signal.aborted) tellWhy(end.why);
    if (!stopping.signal.aborted) on.disconnected(end.refused, end.why);
    return heldAt === undefined ? 0 : performance.now() - heldAt;
  };
  const connecting = (async () => {
    for (let count = 0; !stopping.signal.aborted; count += 1) {
      // Nor may what those who are told make of it end the attempts.
      const heldMs = await attempt().catch((error: unknown) => {
        log.error({ event: 'attempt-failed', err: error }, 'an attempt to connect ended unexpectedly');
        return 0;
      });
      if (heldMs > STABLE_MS) count = 0;
      const waitMs = backoffMs(count, spreadBackoff(options.backoff, options.spreadMs?.() ?? 0), Math.random());
      if (!stopping.signal.aborted)
        log.debug({ event: 'connect-waits', waitMs }, `the next attempt to connect comes in ${waitMs} ms`);
      await sleep(waitMs, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  })();

  return {
    connected: () => connection?.connected() === true,
    publish,
    blocks: blocks.get,
    stop: async () => {
      stopping.abort();
      await connecting;
    },
  };
};

const qosOf = (channel: UpChannel): 0 | 1 => (channel === 'state' || channel === 'online' ? 1 : 0);

type LiveOptions = LinkOptions & { blocks: Blocks };
/** While messages get through. */
type Connection = { connected(): boolean; publish(channel: UpChannel, text: string): void };
/** `refused`: the server does not want this device, or this address is none; over HTTP it says more. */
type End = { why: string; refused: boolean };

/** One connection from its beginning to its end. `hold` gets it while messages get through. */
const live = async (
  options: LiveOptions,
  signal: AbortSignal,
  hold: (connection: Connection | undefined) => void,
): Promise<End> => {
  const { device, boot, log, on } = options;
  const waits = options.waits ?? WAITS;
  const url = options.url();
  const address = url === undefined ? undefined : parseMqttUrl(url);
  if (address === undefined) return { why: 'the server has told no address that can be used', refused: true };
  const online = (is: boolean): string => JSON.stringify({ boot, online: is } satisfies Online);
  const proxy = options.proxyFor?.({ ...address, scheme: address.protocol }) ?? null;
  const inTime = AbortSignal.any([signal, AbortSignal.timeout(waits.readyMs)]);
  const tunnel = proxy === null ? undefined : await openTunnel(proxy, address, inTime);
  const client = connectMqtt(address, tunnel, {
    clientId: device,
    username: device,
    password: options.login(),
    protocolVersion: 4,
    clean: true,
    reconnectPeriod: 0,
    // Bounded below, with what comes after it.
    connectTimeout: 2 * waits.readyMs,
    keepalive: waits.keepaliveS,
    // What is sent shows nothing of the other end.
    reschedulePings: false,
    queueQoSZero: false,
    // 65,536 small buffers, made once, are 7 MB of a device's memory.
    writeCache: false,
    resubscribe: false,
    will: { topic: up(device, 'online'), payload: Buffer.from(online(false)), qos: 1, retain: false },
  });
  const ended = Promise.withResolvers<End>();
  const end = (why: string, refused = false): void => ended.resolve({ why, refused });
  const late = (what: string, ms: number): void => end(`no ${what} within ${ms} ms`);
  const publish = (channel: UpChannel, text: string): void => {
    const qos = qosOf(channel);
    const timer = qos === 0 ? undefined : setTimeout(late, waits.ackMs, 'PUBACK', waits.ackMs).unref();
    client.publish(up(device, channel), text, { qos }, () => clearTimeout(timer));
  };
  let expected = 'CONNACK';
  const ready = setTimeout(() => late(expected, waits.readyMs), waits.readyMs);
  client.on('error', (error) => end(error.message, 'code' in error && (error.code === 4 || error.code === 5)));
  // mqtt.js passes on only some of them.
  client.stream.on('error', (error) => end(error.message));
  client.once('close', () => end('the connection was closed'));
  client.once('end', () => end('the connection was closed'));
  client.on('packetreceive', () => client.reschedulePing(true));
  client.on('message', (topic, payload) => {
    try {
      receive(options, topic, payload);
    } catch (error) {
      log.error({ event: 'message-failed', topic, err: error }, `a message on ${topic} could not be taken`);
    }
  });
  client.once('connect', () => {
    expected = 'SUBACK';
    // mqtt.js leaves Nagle's algorithm on, which holds small messages back.
    if (client.stream instanceof Socket) client.stream.setNoDelay(true);
    const topics = DOWN.map((channel) => down(device, channel));
    client.subscribe(topics, { qos: 1 }, (error, granted) => {
      // Fewer codes than topics are no answer to all of them.
      const isGranted = error === null && granted?.every(({ qos }) => qos <= 2) === true;
      if (!isGranted) return end(`the subscriptions were refused${error === null ? '' : ` (${error.message})`}`, true);
      clearTimeout(ready);
      publish('online', online(true));
      hold({ connected: () => client.connected, publish });
      log.info({ event: 'connected', url }, `connected to ${url}`);
      return on.connected();
    });
  });
  const goodbye = (): void => {
    if (client.connected) client.publish(up(device, 'online'), online(false), { qos: 0 });
    client.end(false);
    setTimeout(() => end('stopped'), GOODBYE_MS_MAX).unref();
  };
  signal.addEventListener('abort', goodbye, { once: true });
  if (signal.aborted) goodbye();
  try {
    return await ended.promise;
  } finally {
    clearTimeout(ready);
    signal.removeEventListener('abort', goodbye);
    hold(undefined);
    client.removeAllListeners('message');
    client.end(true);
    // A peer that is gone answers no farewell either.
    client.stream.destroy();
  }
};

const receive = ({ device, log, on, blocks }: LiveOptions, topic: string, payload: Buffer): void => {
  const is = (channel: DownChannel): boolean => topic === down(device, channel);
  if (is('block')) return blocks.receive(payload);
  if (is('desired')) return on.desired(parseMessage(Desired, payload));
  const ack = is('ack') ? parseMessage(Ack, payload) : undefined;
  if (ack !== undefined) return on.ack(ack);
  const logAck = is('ack') ? parseMessage(LogAck, payload) : undefined;
  if (logAck !== undefined) return on.logAck(logAck);
  return log.warn({ event: 'message-dropped', topic }, `a message on ${topic} could not be understood`);
};

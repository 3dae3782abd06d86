/**
 * The embedded broker: aedes behind guards. It keeps no retained messages, no sessions and no queues: devices are told
 * their newest desired document when they subscribe, and everything else is repeated end to end.
 */
import { EventEmitter, once } from 'node:events';
import { createServer as createTcpServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { Aedes, type AuthenticateError, type Client, type ConnectPacket, type PublishPacket } from 'aedes';
import type { Logger } from 'pino';
import { BLOCK_REQUEST_BYTES_MAX } from '#shared/blocks.ts';
import { Id } from '#shared/ids.ts';
import { MESSAGE_BYTES_MAX } from '#shared/messages.ts';
import type { Result } from '#shared/problems.ts';
import { fullBucket, perKey, type Rate, type TokenBucket, take, waitMs } from '#shared/token-bucket.ts';
import { down, parseUp, type UpChannel, up } from '#shared/topics.ts';
import type { Observer } from '../flow/device/observer.ts';
import { may, SUBSCRIPTIONS_MAX } from './access.ts';
import type { Connections } from './connections.ts';
import { countConnections, guardPackets } from './guards.ts';

const CONNECT_MS_MAX = 5_000;
const DRAIN_MS_MAX = 10_000;
const TOPIC_LEVELS_MAX = 8;
/** Without a keep-alive, a device that lost its network would count as connected forever. */
const KEEPALIVE_SECONDS_MAX = 1_800;
/**
 * A flooding device is slowed by not reading from it; when it is this far beyond its rate, its connection is closed.
 */
const DEBT_SECONDS_MAX = 30;
/** Pings, acknowledgements and subscriptions beside the messages proper. */
const PACKETS_PER_MESSAGE = 4;

export type BrokerOptions = {
  host: string;
  port: number;
  tls?: { cert: string; key: string } | undefined;
  connectionsMax: number;
  connectionsPerAddressMax: number;
  /** Of each device. */
  rate: Rate;
  /** Requests for blocks a second that are let through beside that. */
  blocksPerSecond: number;
  log: Pick<Logger, 'info' | 'warn' | 'error' | 'debug'>;
  observer: Pick<Observer, 'refused'> & Partial<Pick<Observer, 'takenOver'>>;
};

export type BrokerHandlers = {
  /** Checks the login that is the MQTT password; the device that it proves. */
  authenticate(login: string): Promise<Result<Id>>;
  presence(device: Id, online: boolean): void;
  /** The device is ready to be told its newest desired document. */
  wantsDesired(device: Id): void;
  /** `live`: it came over the connection that the device has now, and was not merely left over from an older one. */
  message(device: Id, channel: UpChannel, payload: Uint8Array, live: boolean): void;
};

export type Broker = { port: number; stop(): Promise<void> };

type Session = { bucket: TokenBucket; refusal: string | null; epoch: number };

/** Rejects, like `net.Server.listen`, when the port is taken. */
export const startBroker = async (
  options: BrokerOptions,
  connections: Connections,
  handlers: BrokerHandlers,
): Promise<Broker> => {
  const sessions = new WeakMap<Client, Session>();
  const sessionOf = (client: Client): Session => {
    const known = sessions.get(client);
    if (known !== undefined) return known;
    const made = { bucket: fullBucket(options.rate, performance.now()), refusal: null, epoch: -1 };
    sessions.set(client, made);
    return made;
  };
  const guards = { options, connections, handlers, sessionOf, complain: complainer(options) };
  const aedes = await Aedes.createBroker({
    // Any limit on messages in flight lets a few stalled devices stop all others.
    concurrency: 0,
    connectTimeout: CONNECT_MS_MAX,
    drainTimeout: DRAIN_MS_MAX,
    keepaliveLimit: KEEPALIVE_SECONDS_MAX,
    maxTopicLevels: TOPIC_LEVELS_MAX,
    preConnect: (client, packet, done) => {
      sessionOf(client).refusal = refusalOf(packet);
      done(null, true);
    },
    authenticate: (client, user, password, done) => {
      void (async () => {
        const why = await authenticate(guards, client, user, password).catch((error: unknown) => {
          options.log.error({ event: 'mqtt-login-failed', err: error }, 'a login could not be checked');
          return 'internal';
        });
        // Outside of the `catch`, or what aedes throws in here would call it a second time.
        if (why === null) done(null, true);
        else done(notAuthorized(why), false);
      })();
    },
    authorizePublish: (client, packet, done) => authorizePublish(guards, client, packet, done),
    authorizeSubscribe: (client, subscription, done) => {
      const allowed = maySubscribe(guards, client, subscription.topic);
      // Null is answered with SUBACK 128 (MQTT 3.1.1, 3.9.3); an error would end the connection.
      done(null, allowed ? subscription : null);
    },
    authorizeForward: (client, packet) => (may(deviceOf(client), 'subscribe', packet.topic) ? packet : null),
    published: (packet, client, done) => {
      const parsed = client === null ? undefined : parseUp(packet.topic);
      if (client !== null && parsed !== undefined) {
        const live = !client.closed && connections.isAttached(parsed.device, client);
        handlers.message(parsed.device, parsed.channel, bytesOf(packet.payload), live);
      }
      done(null);
    },
  });
  const stopAedes = () => new Promise<void>((resolve) => aedes.close(() => resolve()));
  try {
    followClients(guards, aedes);
    return await listen(guards, aedes, stopAedes);
  } catch (error) {
    // Its timers would keep the process alive.
    await stopAedes();
    throw error;
  }
};

type Guards = {
  options: BrokerOptions;
  connections: Connections;
  handlers: BrokerHandlers;
  sessionOf: (client: Client) => Session;
  complain: (why: string, facts: object) => void;
};

/** Whatever is refused is counted; a sample of it is logged, since a flood must not fill the disk. */
const complainer = (options: BrokerOptions): Guards['complain'] => {
  const mayLog = perKey({ burst: 10, perSecond: 1 / 10 }, 100);
  return (why, facts) => {
    options.observer.refused(why);
    if (mayLog(why, performance.now())) options.log.warn({ event: 'mqtt-refused', why, ...facts }, `refused: ${why}`);
  };
};

/** Of a client that has logged in: `authenticate` has found its id to be that of a device. */
// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- see above; parsing it for every message costs too much
const deviceOf = (client: Client): Id => client.id as Id;

const bytesOf = (payload: Buffer | string): Uint8Array =>
  typeof payload === 'string' ? Buffer.from(payload) : payload;

/** CONNACK return codes (MQTT 3.1.1, table 3.1): 4, bad user name or password; 5, not authorized. */
const notAuthorized = (why: string): AuthenticateError =>
  // oxlint-disable-next-line typescript/no-unsafe-enum-assignment -- a `const enum` of aedes, which cannot be imported
  Object.assign(new Error(why), { returnCode: why === 'bad-login' ? 4 : 5 });

// ---- Who may connect

/** What a CONNECT asks for that this broker does not do; told as "not authorized" rather than by a mute close. */
const refusalOf = (packet: ConnectPacket): string | null => {
  if (!packet.clean) return 'persistent-session';
  const device = Id.safeParse(packet.clientId);
  if (!device.success) return 'client-id';
  const { will } = packet;
  if (will === undefined) return null;
  const fits = will.topic === up(device.data, 'online') && will.retain !== true && (will.qos ?? 0) <= 1;
  return fits ? null : 'will';
};

/** Null, or why not. User name, client id and the id that the login proves must be the same. */
const authenticate = async (
  guards: Guards,
  client: Client,
  user: string | undefined,
  password: Buffer | undefined,
): Promise<string | null> => {
  const { handlers, connections } = guards;
  const refuse = (why: string, detail?: string): string => {
    guards.complain(why, {
      deviceId: client.id,
      address: addressOf(client),
      ...(detail === undefined ? {} : { detail }),
    });
    return why;
  };
  const session = guards.sessionOf(client);
  if (session.refusal !== null) return refuse(session.refusal);
  if (user !== client.id || password === undefined) return refuse('bad-login', 'user name and client id differ');
  session.epoch = connections.epoch();
  const device = await handlers.authenticate(password.toString('utf8'));
  if (!device.ok) return refuse(device.code === 'forbidden' ? 'not-accepted' : 'bad-login', device.detail);
  if (device.value !== client.id) return refuse('bad-login', 'the login is of another device');
  // Who was shut out while this login was being checked must not slip in.
  return session.epoch === connections.epoch() ? null : authenticate(guards, client, user, password);
};

const addressOf = (client: Client): string | undefined =>
  'remoteAddress' in client.conn ? client.conn.remoteAddress : undefined;

// ---- What a client may do

const authorizePublish = (
  { options, connections, sessionOf, complain }: Guards,
  client: Client | null,
  packet: PublishPacket,
  done: (error?: Error | null) => void,
): void => {
  // The broker's own $SYS messages, which no one can subscribe to.
  if (client === null) return done(null);
  const device = deviceOf(client);
  const refuse = (why: string): void => {
    complain(why, { deviceId: device, topic: packet.topic.slice(0, 256) });
    // An error closes the connection: an agent that does this is none of ours.
    done(new Error(why));
  };
  if (packet.retain) return refuse('retain');
  if (packet.qos > 1) return refuse('qos-2');
  if (!may(device, 'publish', packet.topic)) return refuse('publish-denied');
  // They have limits of their own, in bytes of what they ask for: server/mqtt/blocks.ts.
  const bytes = packet.payload.length;
  if (packet.topic === up(device, 'block'))
    return bytes > BLOCK_REQUEST_BYTES_MAX ? refuse('message-too-long') : done(null);
  if (bytes > MESSAGE_BYTES_MAX) return refuse('message-too-long');
  // A will is published when its connection has ended: there is no one left to slow down.
  if (!connections.isAttached(device, client)) return done(null);
  const left = take(sessionOf(client).bucket, options.rate, performance.now(), 1 + bytes / 16_384);
  if (left >= 0) return done(null);
  const pause = waitMs(left, options.rate);
  if (pause > DEBT_SECONDS_MAX * 1000) return refuse('message-flood');
  // aedes reads on from this socket only when it has been told that the message was dealt with.
  setTimeout(() => done(client.closed ? new Error('closed') : null), pause).unref();
};

const maySubscribe = ({ complain }: Guards, client: Client, topic: string): boolean => {
  const device = deviceOf(client);
  // aedes has no public way to count subscriptions; there are only as many topics as a device may subscribe to.
  if (may(device, 'subscribe', topic)) return true;
  complain('subscribe-denied', { deviceId: device, topic: topic.slice(0, 256), allowed: SUBSCRIPTIONS_MAX });
  return false;
};

// ---- Coming and going

const followClients = ({ connections, handlers, sessionOf, options }: Guards, aedes: Aedes): void => {
  EventEmitter.prototype.on.call(aedes, 'error', (error: unknown) =>
    options.log.error({ event: 'mqtt-broker-error', err: error }, 'the broker met an error'),
  );
  aedes.on('clientReady', (client) => {
    const device = deviceOf(client);
    // Closed by now, or shut out between the check of its login and this moment.
    if (client.closed) return;
    if (sessionOf(client).epoch !== connections.epoch()) {
      client.close();
      return;
    }
    if (connections.attach(device, client)) options.observer.takenOver?.();
    handlers.presence(device, true);
    // Not aedes' clientDisconnect, which is left out for a client that was taken over while closing.
    client.conn.once('close', () => {
      if (connections.detach(device, client)) handlers.presence(device, false);
    });
  });
  aedes.on('subscribe', (subscriptions, client) => {
    const device = deviceOf(client);
    const wants = subscriptions.some(({ topic, qos }) => topic === down(device, 'desired') && qos <= 1);
    if (!wants || !connections.isAttached(device, client)) return;
    connections.wantsDesired(device, client);
    handlers.wantsDesired(device);
  });
  aedes.on('clientError', (client, error) =>
    options.log.debug({ event: 'mqtt-client-error', deviceId: client.id, why: error.message }, 'connection ended'),
  );
  aedes.on('connectionError', (_client, error) =>
    options.log.debug({ event: 'mqtt-connection-error', why: error.message }, 'connection ended before login'),
  );
};

const listen = async (guards: Guards, aedes: Aedes, stopAedes: () => Promise<void>): Promise<Broker> => {
  const { options, complain } = guards;
  const room = countConnections({ max: options.connectionsMax, perAddressMax: options.connectionsPerAddressMax });
  const packetRate: Rate = {
    burst: options.rate.burst * PACKETS_PER_MESSAGE + options.rate.perSecond * DEBT_SECONDS_MAX,
    perSecond: options.rate.perSecond * PACKETS_PER_MESSAGE + options.blocksPerSecond,
  };
  const sockets = new Set<Socket>();
  const serve = (socket: Socket): void => {
    if (socket.destroyed) return;
    const client = aedes.handle(socket);
    guardPackets(client, packetRate, (why) => complain(why, { address: socket.remoteAddress }));
  };
  const server: Server =
    options.tls === undefined
      ? createTcpServer({ noDelay: true, keepAlive: true }, serve)
      : createTlsServer(
          { ...options.tls, minVersion: 'TLSv1.2', handshakeTimeout: CONNECT_MS_MAX, noDelay: true, keepAlive: true },
          serve,
        );
  // For TLS too this is the bare socket: it counts before the handshake.
  server.prependListener('connection', (socket: Socket) => {
    const full = room.enter(socket);
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    if (full === undefined) return;
    complain(full, { address: socket.remoteAddress });
    socket.destroy();
  });
  server.on('tlsClientError', (error: Error) =>
    options.log.debug({ event: 'mqtt-tls-error', why: error.message }, 'TLS handshake failed'),
  );
  server.listen({ host: options.host, port: options.port, backlog: 2048 });
  await once(server, 'listening');
  server.on('error', (error) => options.log.error({ event: 'mqtt-listen-error', err: error }, 'MQTT cannot accept'));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the broker listens on no port');
  return {
    port: address.port,
    async stop() {
      const closed = once(server, 'close');
      server.close();
      await stopAedes();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
};

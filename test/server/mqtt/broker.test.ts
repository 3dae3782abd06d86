import { connect as connectTcp } from 'node:net';
import mqtt, { type IClientOptions, type MqttClient } from 'mqtt';
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest';
import { type Broker, type BrokerHandlers, type BrokerOptions, startBroker } from '#server/mqtt/broker.ts';
import { type Connections, makeConnections } from '#server/mqtt/connections.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import type { Desired } from '#shared/messages.ts';
import { accept, refuse } from '#shared/problems.ts';
import { down, up } from '#shared/topics.ts';
import { connectPacket, header, openRaw, PING, publishPacket, type Raw, subscribePacket } from './raw.ts';

const GW1 = Id.parse('gw-1');
const GW2 = Id.parse('gw-2');

/** Devices log in with `login:<device>`; what the broker hands on is kept. */
type Seen = { messages: string[]; presence: string[]; wants: Id[]; refused: string[] };
let seen: Seen;
let connections: Connections;
let broker: Broker;
let clients: MqttClient[];
let raws: Raw[];
let rejected: Set<string>;

const HANDLERS: BrokerHandlers = {
  authenticate: async (login) => {
    const device = Id.parse(login.slice('login:'.length));
    if (!login.startsWith('login:')) return refuse('unauthenticated', 'no');
    return rejected.has(device) ? refuse('forbidden', 'rejected') : accept(device);
  },
  presence: (device, online) => void seen.presence.push(`${device} ${online ? 'online' : 'offline'}`),
  wantsDesired: (device) => void seen.wants.push(device),
  message: (device, channel, payload) =>
    void seen.messages.push(`${device} ${channel} ${Buffer.from(payload).toString().slice(0, 40)}`),
};

let spreadMs: number | undefined;
const start = async (more: Partial<BrokerOptions> = {}, handlers: Partial<BrokerHandlers> = {}): Promise<void> => {
  connections = makeConnections(() => spreadMs);
  broker = await startBroker(
    {
      host: '127.0.0.1',
      port: 0,
      connectionsMax: 100,
      connectionsPerAddressMax: 0,
      rate: { burst: 1_000, perSecond: 1_000 },
      blocksPerSecond: 0,
      log: { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} },
      observer: { refused: (why) => void seen.refused.push(why) },
      ...more,
    },
    connections,
    { ...HANDLERS, ...handlers },
  );
};
const restart = async (more: Partial<BrokerOptions>, handlers: Partial<BrokerHandlers> = {}): Promise<void> => {
  await broker.stop();
  await start(more, handlers);
};

beforeEach(async () => {
  seen = { messages: [], presence: [], wants: [], refused: [] };
  clients = [];
  raws = [];
  rejected = new Set();
  await start();
});
afterEach(async () => {
  for (const client of clients) await client.endAsync(true);
  for (const raw of raws) raw.socket.destroy();
  await broker.stop();
});

const options = (device: Id, more: IClientOptions = {}): IClientOptions => ({
  clientId: device,
  username: device,
  password: `login:${device}`,
  protocolVersion: 4,
  reconnectPeriod: 0,
  ...more,
});
/** Resolves when the broker has let it in, rejects when it has not. */
const device = async (id: Id, more: IClientOptions = {}): Promise<MqttClient> => {
  const client = mqtt.connect(`mqtt://127.0.0.1:${broker.port}`, options(id, more));
  clients.push(client);
  await new Promise<void>((resolve, reject) => {
    client.once('connect', () => resolve());
    client.once('error', reject);
    client.once('close', () => reject(new Error('closed')));
  });
  return client;
};
const raw = async (): Promise<Raw> => {
  const opened = await openRaw(broker.port);
  raws.push(opened);
  return opened;
};
const loggedIn = async (id = 'gw-1'): Promise<Raw> => {
  const opened = await raw();
  opened.send(connectPacket({ id }));
  expect(await opened.next()).toEqual(Buffer.from([0x20, 2, 0, 0]));
  return opened;
};
const until = async (holds: () => boolean, what: string): Promise<void> => {
  for (const deadline = Date.now() + 60_000; !holds(); ) {
    if (Date.now() > deadline) throw new Error(`never: ${what}; seen ${JSON.stringify(seen)}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
};
const desired = (leaf: string): Desired => ({
  leaf,
  index: 0,
  proof: [],
  batch: { payload: '{}', keyId: Sha256.parse('0'.repeat(64)), sig: '00' },
});

test('a device logs in, is told what it should run, and is heard', async () => {
  const client = await device(GW1);
  const pushed = new Promise<string>((resolve) =>
    client.on('message', (topic, payload) => topic === down(GW1, 'desired') && resolve(payload.toString())),
  );
  const granted = await client.subscribeAsync([down(GW1, 'desired'), down(GW1, 'ack')], { qos: 1 });
  expect(granted.map(({ qos }) => qos)).toEqual([1, 1]);
  await until(() => seen.wants.length === 1, 'greeting');
  connections.link.pushDesired(GW1, desired('{"seq":1}'));
  expect(JSON.parse(await pushed)).toEqual(desired('{"seq":1}'));
  await client.publishAsync(up(GW1, 'state'), 'report', { qos: 1 });
  await client.publishAsync(up(GW1, 'heartbeat'), 'beat', { qos: 0 });
  await until(() => seen.messages.length === 2, 'messages');
  expect(seen.messages).toEqual(['gw-1 state report', 'gw-1 heartbeat beat']);
  expect(seen.presence).toEqual(['gw-1 online']);
});

test('acknowledgements reach the device they are for, and no one else', async () => {
  const [one, two] = [await device(GW1), await device(GW2)];
  const heard: string[] = [];
  for (const [id, client] of [
    [GW1, one],
    [GW2, two],
  ] as const) {
    client.on('message', (topic, payload) => heard.push(`${id} ${topic} ${payload.toString()}`));
    await client.subscribeAsync(down(id, 'ack'));
  }
  connections.link.acknowledge(GW1, { boot: Id.parse('b1'), seq: 4 });
  connections.link.acknowledge(Id.parse('gw-unknown'), { boot: Id.parse('b1'), seq: 4 });
  await until(() => heard.length === 1, 'ack');
  expect(heard).toEqual([`gw-1 ${down(GW1, 'ack')} {"boot":"b1","seq":4}`]);
  spreadMs = 20_000;
  onTestFinished(() => void (spreadMs = undefined));
  connections.link.acknowledge(GW2, { boot: Id.parse('b1'), seq: 5 });
  await until(() => heard.length === 2, 'ack');
  expect(heard[1]).toBe(`gw-2 ${down(GW2, 'ack')} {"boot":"b1","seq":5,"spreadMs":20000}`);
});

test('what is pushed before the device has subscribed waits for the greeting', async () => {
  const client = await device(GW1);
  const heard: string[] = [];
  client.on('message', (topic) => heard.push(topic));
  connections.link.pushDesired(GW1, desired('{"seq":1}'));
  await client.subscribeAsync(down(GW1, 'desired'), { qos: 1 });
  await client.publishAsync(up(GW1, 'state'), 'x', { qos: 1 });
  expect(heard).toEqual([]);
});

const REFUSED_LOGINS: [what: string, options: IClientOptions, code: number][] = [
  ['a login of no one', { password: 'nonsense' }, 4],
  ['a login of another device', { password: 'login:gw-2' }, 4],
  ['a user name that is not the client id', { username: 'gw-2' }, 4],
  ['no user name', { username: '', password: '' }, 4],
  ['a persistent session', { clean: false }, 5],
  [
    'a will for another device',
    { will: { topic: up(GW2, 'online'), payload: Buffer.from('x'), qos: 1, retain: false } },
    5,
  ],
  ['a retained will', { will: { topic: up(GW1, 'online'), payload: Buffer.from('x'), qos: 1, retain: true } }, 5],
  ['MQTT 5', { protocolVersion: 5 }, 1],
];
test.each(REFUSED_LOGINS)('%s is refused', async (_what, more, code) => {
  await expect(device(GW1, more)).rejects.toMatchObject({ code });
  expect(connections.count()).toBe(0);
  expect(seen.presence).toEqual([]);
});

test('a device that was rejected cannot log in', async () => {
  rejected.add(GW1);
  await expect(device(GW1)).rejects.toMatchObject({ code: 5 });
});

test('a keep-alive of none is refused: a lost network would go unnoticed', async () => {
  const socket = await raw();
  socket.send(connectPacket({ id: 'gw-1', keepalive: 0 }));
  expect((await socket.next())?.[3]).not.toBe(0);
  await socket.closed;
});

test('a rejected device is cut off', async () => {
  const client = await device(GW1);
  await until(() => connections.count() === 1, 'connection');
  const closed = new Promise<void>((resolve) => client.once('close', () => resolve()));
  connections.link.disconnect(GW1);
  await closed;
  await until(() => connections.count() === 0, 'disconnect');
  expect(seen.presence).toEqual(['gw-1 online', 'gw-1 offline']);
});

test('a device that is shut out while its login is checked does not slip in', async () => {
  const reached = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  await restart(
    {},
    {
      authenticate: async (login) => {
        const verdict = await HANDLERS.authenticate(login);
        reached.resolve();
        await go.promise;
        return verdict;
      },
    },
  );
  const refused = device(GW1).then(
    () => 'let in',
    (error: unknown) => error,
  );
  await reached.promise;
  rejected.add(GW1);
  connections.link.disconnect(GW1);
  go.resolve();
  expect(await refused).toMatchObject({ code: 5 });
});

test('a second connection of a device takes over, and the device stays online', async () => {
  const first = await device(GW1);
  const closed = new Promise<void>((resolve) => first.once('close', () => resolve()));
  const second = await device(GW1);
  await closed;
  await second.subscribeAsync(down(GW1, 'desired'), { qos: 1 });
  await until(() => seen.wants.length === 1, 'greeting');
  const pushed = new Promise((resolve) => second.once('message', resolve));
  connections.link.pushDesired(GW1, desired('{}'));
  await pushed;
  expect(connections.count()).toBe(1);
  expect(seen.presence.at(-1)).toBe('gw-1 online');
});

test('many connections of a device in a row leave exactly the last one', async () => {
  const opened = await Promise.all(Array.from({ length: 20 }, () => raw()));
  for (const one of opened) one.send(connectPacket({ id: 'gw-1' }));
  await until(() => opened.filter(({ socket }) => socket.destroyed).length === 19, 'takeovers');
  await until(() => connections.count() === 1, 'the last one is there');
  const left = opened.find(({ socket }) => !socket.destroyed);
  left?.socket.destroy();
  await until(() => connections.count() === 0, 'the last one leaves');
  expect(seen.presence.at(-1)).toBe('gw-1 offline');
});

test.each([
  [down(GW1, 'desired').replace('gw-1', 'gw-2')],
  ['#'],
  ['sluice/v1/d/+/up/#'],
  ['sluice/v1/d/gw-1/down/#'],
  [`$share/g/${down(GW1, 'desired')}`],
  ['$SYS/#'],
  ['a/b/c/d/e/f/g/h'],
])('subscribing to %s is refused', async (topic) => {
  const socket = await loggedIn();
  socket.send(subscribePacket([topic, down(GW1, 'ack')]));
  expect(await socket.next()).toEqual(Buffer.from([0x90, 4, 0, 9, 0x80, 1]));
  expect(seen.refused).toEqual(['subscribe-denied']);
});

test('a subscription of very many levels ends the connection, and not the broker', async () => {
  const socket = await loggedIn();
  socket.send(subscribePacket(['a/'.repeat(5_000)]));
  await socket.closed;
  await device(GW2);
  await until(() => connections.count() === 1, 'the other');
  expect(seen.presence.at(-1)).toBe('gw-2 online');
});

test('ten thousand subscriptions in one packet are all refused, and hold nothing', async () => {
  const socket = await loggedIn();
  socket.send(subscribePacket(Array.from({ length: 10_000 }, (_, index) => `t/${index}`)));
  const answer = await socket.next();
  expect(answer?.[0]).toBe(0x90);
  socket.send(publishPacket(up(GW1, 'log'), 'still here'));
  await until(() => seen.messages.length === 1, 'message');
});

test.each([
  ['another device', publishPacket(up(GW2, 'state'), 'x', 1), 'publish-denied'],
  ['a down topic', publishPacket(down(GW1, 'desired'), 'x', 1), 'publish-denied'],
  ['$SYS', publishPacket('$SYS/x', 'x'), 'publish-denied'],
  ['a retained message', publishPacket(up(GW1, 'state'), 'x', 1, true), 'retain'],
  ['QoS 2', publishPacket(up(GW1, 'state'), 'x', 2), 'qos-2'],
  ['more than a message holds', publishPacket(up(GW1, 'log'), 'x'.repeat(70_000)), 'message-too-long'],
  ['more than a block request holds', publishPacket(up(GW1, 'block'), 'x'.repeat(5_000)), 'message-too-long'],
])('publishing %s ends the connection', async (_what, bytes, why) => {
  const socket = await loggedIn();
  socket.send(bytes);
  await socket.closed;
  expect(seen.messages).toEqual([]);
  expect(seen.refused).toEqual([why]);
});

test('before login, a packet above 4 KiB is cut off when its length is known, not when it has arrived', async () => {
  const socket = await raw();
  socket.send(header(0x10, 5_000));
  await socket.closed;
  expect(seen.refused).toEqual(['packet-too-long']);
});

test('after login, 256 MiB are cut off at once too', async () => {
  const socket = await loggedIn();
  socket.send(header(0x30, 268_435_455));
  await socket.closed;
  expect(seen.refused).toEqual(['packet-too-long']);
});

test('a length that comes byte by byte is still guarded', async () => {
  const socket = await raw();
  for (const byte of header(0x10, 268_435_455)) {
    socket.send(Buffer.from([byte]));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await socket.closed;
  expect(seen.refused).toEqual(['packet-too-long']);
});

test('packets before CONNECT, and a second CONNECT, end the connection', async () => {
  const early = await raw();
  early.send(publishPacket(up(GW1, 'state'), 'x'));
  await early.closed;
  const twice = await loggedIn();
  twice.send(connectPacket({ id: 'gw-2' }));
  await twice.closed;
  expect(seen.messages).toEqual([]);
});

test('who does not log in is let go after five seconds', async () => {
  const socket = await raw();
  const began = performance.now();
  await socket.closed;
  expect(performance.now() - began).toBeGreaterThan(4_000);
});

test('an address has only so many connections, and gets room again when one ends', async () => {
  await restart({ connectionsPerAddressMax: 2 });
  const [first] = [await loggedIn('gw-1'), await loggedIn('gw-2')];
  const third = await raw();
  await third.closed;
  expect(seen.refused).toEqual(['too-many-connections-of-address']);
  first.socket.destroy();
  await until(() => connections.count() === 1, 'room');
  await loggedIn('gw-3');
});

test('the broker has only so many connections', async () => {
  await restart({ connectionsMax: 1 });
  await loggedIn('gw-1');
  await (await raw()).closed;
  expect(seen.refused).toEqual(['too-many-connections']);
});

test('a device that floods is slowed down, and nothing of it is lost', async () => {
  await restart({ rate: { burst: 10, perSecond: 200 } });
  const socket = await loggedIn();
  const began = performance.now();
  for (let index = 0; index < 60; index++) socket.send(publishPacket(up(GW1, 'log'), `line ${index}`));
  await until(() => seen.messages.length === 60, 'all messages');
  expect(performance.now() - began).toBeGreaterThan(200);
  expect(seen.messages.at(-1)).toBe('gw-1 log line 59');
});

test('a device that floods without end is cut off, and others are not held up', async () => {
  await restart({ rate: { burst: 5, perSecond: 1 } });
  const other = await loggedIn('gw-2');
  const socket = await loggedIn();
  socket.send(...Array.from({ length: 200 }, () => publishPacket(up(GW1, 'log'), 'x')));
  await socket.closed;
  expect(seen.refused).toContainEqual(expect.stringMatching(/flood/));
  other.send(publishPacket(up(GW2, 'log'), 'here'));
  await until(() => seen.messages.includes('gw-2 log here'), 'the other');
});

test('pings count too', async () => {
  await restart({ rate: { burst: 5, perSecond: 1 } });
  const socket = await loggedIn();
  socket.send(...Array.from({ length: 500 }, () => PING));
  await socket.closed;
  expect(seen.refused).toContain('packet-flood');
});

test('a device that never reads is cut off, and keeps no one from being told', async () => {
  const lazy = await loggedIn('gw-1');
  lazy.send(subscribePacket([down(GW1, 'desired')]));
  await lazy.next();
  await until(() => seen.wants.length === 1, 'greeting');
  lazy.socket.pause();
  const big = desired('x'.repeat(4_000));
  for (let index = 0; index < 5_000 && connections.count() === 1; index++) {
    connections.link.pushDesired(GW1, big);
    await new Promise((resolve) => setImmediate(resolve));
  }
  await until(() => connections.count() === 0, 'cut off');
  expect(seen.presence).toEqual(['gw-1 online', 'gw-1 offline']);
});

test('a taken port is an error, not a hang', async () => {
  await expect(start({ port: broker.port })).rejects.toMatchObject({ code: 'EADDRINUSE' });
});

test('stopping closes every socket, also of those who never logged in', async () => {
  await loggedIn();
  const silent = await raw();
  await broker.stop();
  await silent.closed;
  const late = connectTcp({ port: broker.port, host: '127.0.0.1' });
  const error = await new Promise((resolve) => late.once('error', resolve));
  expect(error).toMatchObject({ code: 'ECONNREFUSED' });
  await start();
});

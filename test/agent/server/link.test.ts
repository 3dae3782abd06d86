import { randomBytes } from 'node:crypto';
import { pino } from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { type LinkOptions, openLink } from '#agent/server/link.ts';
import { Id } from '#shared/ids.ts';
import { connack, HONEST, type Script, startScriptedBroker, suback } from '../scripted-broker.ts';

const SHORT = { readyMs: 300, ackMs: 300, keepaliveS: 1 };
/** Longer than any test: what ends is not ended by these. */
const LONG = { readyMs: 600_000, ackMs: 600_000, keepaliveS: 600 };

const open = (url: string | (() => string | undefined), more: Partial<LinkOptions> = {}) => {
  const heard = { connected: 0, disconnected: [] as boolean[], lines: [] as { event: string; why?: string }[] };
  const link = openLink({
    url: typeof url === 'string' ? () => url : url,
    device: Id.parse('gw-01'),
    login: () => 'login',
    boot: Id.parse('b1'),
    backoff: { firstMs: 10, maxMs: 50 },
    waits: SHORT,
    log: pino({ level: 'debug' }, { write: (line: string) => heard.lines.push(JSON.parse(line)) }),
    on: {
      connected: () => {
        heard.connected += 1;
      },
      disconnected: (refused) => heard.disconnected.push(refused),
      desired: () => undefined,
      ack: () => undefined,
      logAck: () => undefined,
    },
    ...more,
  });
  onTestFinished(() => link.stop());
  return { link, heard, whys: () => heard.lines.map(({ why }) => why ?? '').join('\n') };
};

const SILENT: Script = {};
const { connect, subscribe, publish, pingreq } = HONEST;

test.each(['mqtt', 'mqtts', 'ws', 'wss'])(
  'a peer that accepts %s and says nothing is left, and tried again',
  async (scheme) => {
    const broker = await startScriptedBroker(() => SILENT);
    const { link, heard, whys } = open(`${scheme}://127.0.0.1:${broker.port}`);
    await expect.poll(broker.connections).toBeGreaterThan(1);
    expect(link.connected()).toBe(false);
    expect(heard.connected).toBe(0);
    expect(whys()).toContain('no CONNACK within 300 ms');
    await expect.poll(() => broker.sockets.size).toBeLessThan(2);
  },
);

test.each<[string, Script, string]>([
  ['never answers SUBSCRIBE', { connect }, 'no SUBACK within 300 ms'],
  ['closes each connection at once', { connection: ({ socket }) => socket.destroy() }, ''],
  ['closes after CONNACK', { connect: ({ send, socket }) => (send(connack()), socket.end()) }, 'closed'],
  ['speaks another protocol', { connection: ({ socket }) => void socket.write('SSH-2.0-OpenSSH_9.2\r\n') }, ''],
  ['sends no packets but bytes', { connect: ({ socket }) => void socket.write(randomBytes(4_096)) }, ''],
  [
    'answers fewer topics than were asked for',
    { connect, subscribe: ({ send }, packet) => send(suback(packet, [1])) },
    'the subscriptions were refused',
  ],
])('a broker that %s is tried again, with the reason in the log', async (_, first, why) => {
  const broker = await startScriptedBroker((connection) => (connection < 2 ? first : HONEST));
  const { link, heard, whys } = open(`mqtt://127.0.0.1:${broker.port}`);
  await expect.poll(link.connected).toBe(true);
  expect(broker.connections()).toBeGreaterThan(2);
  expect(heard.connected).toBeGreaterThan(0);
  expect(whys()).toContain(why);
});

test('devices that lose their server at one moment wait over the width that it has told, each for another time', async () => {
  const broker = await startScriptedBroker(() => HONEST);
  const told = { spreadMs: () => 600_000, waits: LONG };
  const links = Array.from({ length: 20 }, () => open(`mqtt://127.0.0.1:${broker.port}`, told));
  await expect.poll(() => links.every(({ link }) => link.connected())).toBe(true);
  for (const socket of broker.sockets) socket.destroy();
  const waits = () =>
    links.flatMap(({ heard }) => heard.lines.flatMap((line) => ('waitMs' in line ? [Number(line.waitMs)] : [])));
  await expect.poll(() => waits().length).toBe(20);
  expect(Math.min(...waits())).toBeGreaterThanOrEqual(60_000);
  expect(Math.max(...waits())).toBeLessThanOrEqual(600_000);
  expect(new Set(waits()).size).toBeGreaterThan(10);
});

test('a refused login, and refused subscriptions, are told as what they are', async () => {
  const refused: Script[] = [
    { connect: ({ send }) => send(connack(5)) },
    { connect: ({ send }) => send(connack(3)) },
    { connect, subscribe: ({ send }, packet) => send(suback(packet, [1, 0x80, 1])) },
  ];
  const broker = await startScriptedBroker((connection) => refused[connection] ?? HONEST);
  const { link, heard } = open(`mqtt://127.0.0.1:${broker.port}`, { waits: LONG });
  await expect.poll(link.connected).toBe(true);
  expect(heard.disconnected.slice(0, 3)).toEqual([true, false, true]);
});

test('a lower quality of service than was asked for is taken', async () => {
  const broker = await startScriptedBroker(() => ({
    ...HONEST,
    subscribe: ({ send }, packet) => send(suback(packet, [0, 0, 0])),
  }));
  const { link } = open(`mqtt://127.0.0.1:${broker.port}`, { waits: LONG });
  await expect.poll(link.connected).toBe(true);
});

test('a broker that acknowledges no messages is left', async () => {
  const broker = await startScriptedBroker((connection) =>
    connection === 0 ? { connect, subscribe, pingreq } : HONEST,
  );
  const { link, heard, whys } = open(`mqtt://127.0.0.1:${broker.port}`);
  await expect.poll(() => heard.connected).toBeGreaterThan(1);
  expect(whys()).toContain('no PUBACK within 300 ms');
  await expect.poll(link.connected).toBe(true);
});

test('a connection whose other end is gone without a word is noticed, however much the device sends itself', async () => {
  // After the handshake it swallows all, as a route that was dropped does.
  const broker = await startScriptedBroker((connection) =>
    connection === 0 ? { connect, subscribe, publish } : HONEST,
  );
  const { link, heard, whys } = open(`mqtt://127.0.0.1:${broker.port}`, { waits: { ...LONG, keepaliveS: 1 } });
  await expect.poll(() => heard.connected).toBe(1);
  const speaking = setInterval(() => link.publish('heartbeat', { at: 1 }), 20);
  onTestFinished(() => clearInterval(speaking));
  await expect.poll(() => heard.connected).toBeGreaterThan(1);
  expect(whys()).toContain('Keepalive timeout');
  expect(broker.count('pingreq', 0)).toBe(1);
});

test('a peer that answers pings is kept, also when it has nothing to say', async () => {
  const broker = await startScriptedBroker(() => HONEST);
  open(`mqtt://127.0.0.1:${broker.port}`, { waits: { ...LONG, keepaliveS: 1 } });
  const mostPings = () =>
    Math.max(...Array.from({ length: broker.connections() }, (__, index) => broker.count('pingreq', index)));
  await expect.poll(mostPings).toBeGreaterThan(1);
});

test('whatever an address makes the libraries throw is a failed attempt', async () => {
  const broker = await startScriptedBroker(() => HONEST);
  const addresses = [undefined, 'mqtt.example.com', 'mqtt://x:99999', 'ws://[::1', 'mqtt://nowhere.invalid:1'];
  const { link, heard } = open(() => (addresses.length === 0 ? `mqtt://127.0.0.1:${broker.port}` : addresses.shift()));
  await expect.poll(link.connected).toBe(true);
  expect(heard.disconnected.length).toBeGreaterThan(1);
  expect(heard.disconnected[0]).toBe(true);
});

test('a login that cannot be made is a failed attempt', async () => {
  const broker = await startScriptedBroker(() => HONEST);
  let attempts = 0;
  const { link } = open(`mqtt://127.0.0.1:${broker.port}`, {
    login: () => {
      attempts += 1;
      if (attempts < 3) throw new Error('no entropy');
      return 'login';
    },
  });
  await expect.poll(link.connected).toBe(true);
});

test('stopping ends at once what waits for a peer that says nothing', async () => {
  const broker = await startScriptedBroker(() => SILENT);
  const { link } = open(`mqtt://127.0.0.1:${broker.port}`, { waits: LONG });
  await expect.poll(broker.connections).toBe(1);
  await link.stop();
  await expect.poll(() => broker.sockets.size).toBe(0);
});

test('the same reason is told once, and again after a connection that worked', async () => {
  const broker = await startScriptedBroker((connection) =>
    connection === 3 ? { ...HONEST, publish: ({ socket }) => socket.destroy() } : { connect },
  );
  const { heard } = open(`mqtt://127.0.0.1:${broker.port}`, { waits: { ...LONG, readyMs: 50 } });
  await expect.poll(broker.connections).toBeGreaterThan(6);
  const told = heard.lines.filter((line) => line.event === 'not-connected' && 'level' in line && line.level === 40);
  expect(told.map(({ why }) => why)).toEqual(['no SUBACK within 50 ms', 'no SUBACK within 50 ms']);
});

/** A broker that does as a test says, on a real socket: for what no honest one would do. */
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { onTestFinished } from 'vitest';

/** The four bits that begin a packet of MQTT 3.1.1: those that a device sends. */
type Sent = 'connect' | 'publish' | 'subscribe' | 'pingreq';
const SENT: Record<number, Sent> = { 1: 'connect', 3: 'publish', 8: 'subscribe', 12: 'pingreq' };

export type Packet = { type: number; qos: number; body: Buffer };
type Peer = { socket: Socket; send: (...packets: Buffer[]) => void };

export const connack = (code = 0): Buffer => Buffer.from([0x20, 2, 0, code]);
export const suback = ({ body }: Packet, codes: number[]): Buffer =>
  Buffer.from([0x90, 2 + codes.length, body[0]!, body[1]!, ...codes]);
const puback = ({ body }: Packet): Buffer => {
  const at = 2 + body.readUInt16BE(0);
  return Buffer.from([0x40, 2, body[at]!, body[at + 1]!]);
};
const PINGRESP = Buffer.from([0xd0, 0]);

export type Script = Partial<Record<Sent | 'connection', (peer: Peer, packet: Packet) => void>>;

/** What a broker owes to a device that subscribes to all of its topics. */
export const HONEST = {
  connect: ({ send }) => send(connack()),
  subscribe: ({ send }, packet) => send(suback(packet, [1, 1, 1])),
  publish: ({ send }, packet) => {
    if (packet.qos > 0) send(puback(packet));
  },
  pingreq: ({ send }) => send(PINGRESP),
} satisfies Script;

/** Follows the script that `script` returns for each connection, counted from 0. */
export const startScriptedBroker = async (script: (connection: number) => Script) => {
  const sockets = new Set<Socket>();
  const seen: { connection: number; sent: Sent }[] = [];
  let connections = 0;
  const server = createServer((socket) => {
    const connection = connections;
    connections += 1;
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => sockets.delete(socket));
    const peer: Peer = { socket, send: (...packets) => void socket.write(Buffer.concat(packets)) };
    const acts = script(connection);
    acts.connection?.(peer, { type: 0, qos: 0, body: Buffer.alloc(0) });
    let rest: Buffer = Buffer.alloc(0);
    socket.on('data', (bytes) => {
      rest = Buffer.concat([rest, bytes]);
      for (let cut = cutPacket(rest); cut !== undefined; cut = cutPacket(rest)) {
        rest = rest.subarray(cut.length);
        const sent = SENT[cut.packet.type];
        if (sent === undefined) continue;
        seen.push({ connection, sent });
        acts[sent]?.(peer, cut.packet);
      }
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return {
    port: (server.address() as AddressInfo).port,
    sockets,
    connections: () => connections,
    /** How many packets of this type came, over one connection or all of them. */
    count: (sent: Sent, connection?: number) =>
      seen.filter((one) => one.sent === sent && (connection ?? one.connection) === one.connection).length,
  };
};

const cutPacket = (bytes: Buffer): { packet: Packet; length: number } | undefined => {
  let length = 0;
  for (let index = 1; index < 5 && index < bytes.length; index += 1) {
    length += (bytes[index]! & 127) * 128 ** (index - 1);
    if (bytes[index]! >= 128) continue;
    const end = index + 1 + length;
    if (bytes.length < end) return undefined;
    const packet = { type: bytes[0]! >> 4, qos: (bytes[0]! >> 1) & 3, body: bytes.subarray(index + 1, end) };
    return { packet, length: end };
  }
  return undefined;
};

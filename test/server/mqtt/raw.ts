/** MQTT by hand, for what a well-behaved client would never send. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

const remainingLength = (length: number): Buffer => {
  const bytes: number[] = [];
  let rest = length;
  do {
    bytes.push((rest % 128) + (rest >= 128 ? 128 : 0));
    rest = Math.floor(rest / 128);
  } while (rest > 0);
  return Buffer.from(bytes);
};
const text = (value: string): Buffer => {
  const bytes = Buffer.from(value);
  return Buffer.concat([Buffer.from([bytes.length >> 8, bytes.length & 255]), bytes]);
};
export const header = (first: number, length: number): Buffer =>
  Buffer.concat([Buffer.from([first]), remainingLength(length)]);
const packet = (first: number, ...parts: Buffer[]): Buffer => {
  const body = Buffer.concat(parts);
  return Buffer.concat([header(first, body.length), body]);
};

export const connectPacket = (more: {
  id: string;
  user?: string;
  password?: string;
  clean?: boolean;
  keepalive?: number;
}): Buffer => {
  const flags = 0xc0 | (more.clean === false ? 0 : 2);
  const keepalive = more.keepalive ?? 60;
  return packet(
    0x10,
    text('MQTT'),
    Buffer.from([4, flags, keepalive >> 8, keepalive & 255]),
    ...[more.id, more.user ?? more.id, more.password ?? `login:${more.id}`].map(text),
  );
};
export const publishPacket = (topic: string, payload: string, qos: 0 | 1 | 2 = 0, retain = false): Buffer =>
  packet(
    0x30 | (qos << 1) | (retain ? 1 : 0),
    text(topic),
    qos === 0 ? Buffer.alloc(0) : Buffer.from([0, 7]),
    Buffer.from(payload),
  );
export const subscribePacket = (topics: string[]): Buffer =>
  packet(0x82, Buffer.from([0, 9]), ...topics.flatMap((topic) => [text(topic), Buffer.from([1])]));
export const PING = Buffer.from([0xc0, 0]);

export type Raw = {
  socket: Socket;
  send(...packets: Buffer[]): void;
  /** The next bytes from the broker; null when it closed the connection instead. */
  next(): Promise<Buffer | null>;
  closed: Promise<void>;
};

export const openRaw = async (port: number): Promise<Raw> => {
  const socket = connect({ port, host: '127.0.0.1' });
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  const chunks: Buffer[] = [];
  let wake: () => void = () => undefined;
  socket.on('data', (chunk: Buffer) => {
    chunks.push(chunk);
    wake();
  });
  socket.on('error', () => undefined);
  await Promise.race([once(socket, 'connect'), closed]);
  return {
    socket,
    closed,
    send: (...packets) => void socket.write(Buffer.concat(packets)),
    next: async () => {
      while (chunks.length === 0 && !socket.destroyed) {
        await Promise.race([closed, new Promise<void>((resolve) => (wake = resolve))]);
      }
      return chunks.shift() ?? null;
    },
  };
};

/**
 * Serves a drive over the NBD protocol (fixed newstyle handshake, simple replies) on a Unix socket, as qemu wants it:
 * the emulator can be killed at any moment, and what it had not flushed is then in our hands.
 * https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
 */
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { type Drive, SECTOR_BYTES } from './drive.ts';

const OPTION_MAGIC = Buffer.from('IHAVEOPT');
const OPTION_REPLY_MAGIC = 0x0003_e889_0455_65a9n;
const REQUEST_MAGIC = 0x2560_9513;
const REPLY_MAGIC = 0x6744_6698;
const HANDSHAKE_FLAGS = 0b11; // fixed newstyle, no zeroes
const EXPORT_FLAGS = 0b1101; // has flags, takes flush, takes FUA
const OPTION = { exportName: 1, abort: 2, info: 6, go: 7 } as const;
const REPLY = { ack: 1, info: 3, unsupported: 0x8000_0001 } as const;
const COMMAND = { read: 0, write: 1, disconnect: 2, flush: 3 } as const;
const FUA = 1;
const EINVAL = 22;
const REQUEST_BYTES_MAX = 64 * 1024 * 1024;

export type DriveEvent = { kind: 'write'; offset: number; bytes: number } | { kind: 'flush' };
export type NbdServer = {
  /** Nothing that is still on its way to the drive will reach it. */
  disconnect(): void;
  stop(): Promise<void>;
};

/** Bytes as they come, given out as they are asked for. */
const readerOf = (socket: Socket) => {
  let held: Buffer[] = [];
  let length = 0;
  const chunks = socket[Symbol.asyncIterator]();
  return async (bytes: number): Promise<Buffer | undefined> => {
    while (length < bytes) {
      const next = await chunks.next();
      if (next.done === true) return undefined;
      held.push(next.value);
      length += next.value.length;
    }
    const all = held.length === 1 ? held[0]! : Buffer.concat(held);
    held = all.length === bytes ? [] : [all.subarray(bytes)];
    length -= bytes;
    return all.subarray(0, bytes);
  };
};
type Read = ReturnType<typeof readerOf>;

const uint = (value: number, bytes: 2 | 4): Buffer => {
  const buffer = Buffer.alloc(bytes);
  buffer.writeUIntBE(value, 0, bytes);
  return buffer;
};
const uint64 = (value: bigint): Buffer => {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64BE(value);
  return buffer;
};
const exportOf = (drive: Drive) => Buffer.concat([uint64(BigInt(drive.bytes)), uint(EXPORT_FLAGS, 2)]);

/** True when requests may follow. */
const handshake = async (socket: Socket, read: Read, drive: Drive): Promise<boolean> => {
  socket.write(Buffer.concat([Buffer.from('NBDMAGIC'), OPTION_MAGIC, uint(HANDSHAKE_FLAGS, 2)]));
  if ((await read(4)) === undefined) return false;
  for (;;) {
    const head = await read(16);
    if (head === undefined || !head.subarray(0, 8).equals(OPTION_MAGIC)) return false;
    const option = head.readUInt32BE(8);
    const length = head.readUInt32BE(12);
    if (length > REQUEST_BYTES_MAX || (await read(length)) === undefined) return false;
    const reply = (type: number, data: Uint8Array = Buffer.alloc(0)): void => {
      socket.write(
        Buffer.concat([uint64(OPTION_REPLY_MAGIC), uint(option, 4), uint(type, 4), uint(data.length, 4), data]),
      );
    };
    if (option === OPTION.exportName) {
      socket.write(exportOf(drive));
      return true;
    }
    if (option === OPTION.abort) {
      reply(REPLY.ack);
      return false;
    }
    if (option !== OPTION.go && option !== OPTION.info) reply(REPLY.unsupported);
    else {
      reply(REPLY.info, Buffer.concat([uint(0, 2), exportOf(drive)]));
      reply(REPLY.ack);
      if (option === OPTION.go) return true;
    }
  }
};

const serveRequests = async (socket: Socket, read: Read, drive: Drive, tell: (event: DriveEvent) => void) => {
  for (;;) {
    const head = await read(28);
    if (head === undefined || socket.destroyed || head.readUInt32BE(0) !== REQUEST_MAGIC) return;
    const [flags, command, length] = [head.readUInt16BE(4), head.readUInt16BE(6), head.readUInt32BE(24)];
    const offset = Number(head.readBigUInt64BE(16));
    const reply = (error: number, data: Uint8Array = Buffer.alloc(0)): void => {
      socket.write(Buffer.concat([uint(REPLY_MAGIC, 4), uint(error, 4), head.subarray(8, 16), data]));
    };
    const isWhole = offset % SECTOR_BYTES === 0 && length % SECTOR_BYTES === 0 && offset + length <= drive.bytes;
    if (length > REQUEST_BYTES_MAX || command === COMMAND.disconnect) return;
    if (command === COMMAND.write) {
      const data = await read(length);
      if (data === undefined || socket.destroyed) return;
      if (!isWhole) reply(EINVAL);
      else {
        drive.write(offset, data, (flags & FUA) !== 0);
        reply(0);
        tell({ kind: 'write', offset, bytes: length });
      }
    } else if (command === COMMAND.flush) {
      drive.flush();
      reply(0);
      tell({ kind: 'flush' });
    } else if (command === COMMAND.read && isWhole) reply(0, drive.read(offset, length));
    else reply(EINVAL);
  }
};

/** `tell` hears of every write and flush after it was done: that is where tests cut. */
export const serveDrive = async (
  path: string,
  drive: Drive,
  tell: (event: DriveEvent) => void = () => {},
): Promise<NbdServer> => {
  const sockets = new Set<Socket>();
  const session = async (socket: Socket): Promise<void> => {
    const read = readerOf(socket);
    try {
      if (await handshake(socket, read, drive)) await serveRequests(socket, read, drive, tell);
    } catch (error) {
      // A killed emulator resets the connection.
      if (!(error instanceof Error && 'code' in error)) throw error;
    } finally {
      socket.destroy();
    }
  };
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => sockets.delete(socket));
    void session(socket);
  });
  const disconnect = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  server.listen(path);
  await once(server, 'listening');
  return {
    disconnect,
    stop: async () => {
      disconnect();
      await new Promise((resolve) => server.close(resolve));
    },
  };
};

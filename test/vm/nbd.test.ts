import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { randomOf } from '#test/simulation/random.ts';
import { openDrive, SECTOR_BYTES } from './drive.ts';
import { type DriveEvent, serveDrive } from './nbd.ts';

const OLD_EXPORT_NAME = Buffer.from('IHAVEOPT\u0000\u0000\u0000\u0001\u0000\u0000\u0000\u0000');

/** As a client of the protocol does, byte for byte. */
const openClient = async (path: string) => {
  const socket: Socket = connect(path);
  await once(socket, 'connect');
  // Where the other side resets the connection, what matters is that it is closed.
  socket.on('error', () => undefined);
  let held = Buffer.alloc(0);
  socket.on('data', (chunk: Buffer) => {
    held = Buffer.concat([held, chunk]);
  });
  const take = async (bytes: number): Promise<Buffer> => {
    while (held.length < bytes) await once(socket, 'data');
    const taken = held.subarray(0, bytes);
    held = held.subarray(bytes);
    return taken;
  };
  const request = async (command: number, offset: number, length: number, data = Buffer.alloc(0), flags = 0) => {
    const head = Buffer.alloc(28);
    head.writeUInt32BE(0x2560_9513);
    head.writeUInt16BE(flags, 4);
    head.writeUInt16BE(command, 6);
    head.write('12345678', 8);
    head.writeBigUInt64BE(BigInt(offset), 16);
    head.writeUInt32BE(length, 24);
    socket.write(Buffer.concat([head, data]));
    const reply = await take(16);
    expect(reply.readUInt32BE()).toBe(0x6744_6698);
    expect(reply.subarray(8).toString()).toBe('12345678');
    return {
      error: reply.readUInt32BE(4),
      data: command === 0 && reply.readUInt32BE(4) === 0 ? await take(length) : null,
    };
  };
  expect((await take(18)).subarray(0, 16).toString()).toBe('NBDMAGICIHAVEOPT');
  socket.write(Buffer.concat([Buffer.from([0, 0, 0, 3]), OLD_EXPORT_NAME]));
  return { size: Number((await take(10)).readBigUInt64BE()), request, socket };
};

const openServer = async () => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-nbd-'));
  const drive = openDrive(Buffer.alloc(16 * SECTOR_BYTES));
  const events: DriveEvent[] = [];
  const server = await serveDrive(join(dir, 'socket'), drive, (event) => events.push(event));
  onTestFinished(async () => {
    await server.stop();
    await rm(dir, { recursive: true });
  });
  return { drive, events, server, path: join(dir, 'socket') };
};

test('a client learns the size, writes, flushes and reads back', async () => {
  const { path, events, drive } = await openServer();
  const client = await openClient(path);
  expect(client.size).toBe(16 * SECTOR_BYTES);
  const content = Buffer.alloc(2 * SECTOR_BYTES, 7);
  expect(await client.request(1, SECTOR_BYTES, content.length, content)).toEqual({ error: 0, data: null });
  expect(await client.request(3, 0, 0)).toEqual({ error: 0, data: null });
  expect(await client.request(0, SECTOR_BYTES, content.length)).toEqual({ error: 0, data: content });
  expect(events).toEqual([{ kind: 'write', offset: SECTOR_BYTES, bytes: content.length }, { kind: 'flush' }]);
  expect(drive.cut('lost', randomOf(1, 'nbd')).unflushed).toBe(0);
});

test('what a client did not flush is lost with the power, unless it asked for the platter', async () => {
  const { path, drive } = await openServer();
  const client = await openClient(path);
  await client.request(1, 0, SECTOR_BYTES, Buffer.alloc(SECTOR_BYTES, 1));
  await client.request(1, SECTOR_BYTES, SECTOR_BYTES, Buffer.alloc(SECTOR_BYTES, 2), 1);
  expect(drive.cut('lost', randomOf(1, 'nbd'))).toEqual({ unflushed: 1, lost: 1 });
  expect(drive.read(0, 2 * SECTOR_BYTES)).toEqual(
    Buffer.concat([Buffer.alloc(SECTOR_BYTES), Buffer.alloc(SECTOR_BYTES, 2)]),
  );
});

test('what reaches beyond the drive, or is not of whole sectors, is refused', async () => {
  const { path } = await openServer();
  const client = await openClient(path);
  expect(await client.request(0, 16 * SECTOR_BYTES, SECTOR_BYTES)).toEqual({ error: 22, data: null });
  expect(await client.request(1, 0, 100, Buffer.alloc(100))).toEqual({ error: 22, data: null });
  expect(await client.request(4, 0, SECTOR_BYTES)).toEqual({ error: 22, data: null });
});

test('after a disconnect nothing that is on its way reaches the drive', async () => {
  const { path, drive, server } = await openServer();
  const client = await openClient(path);
  const closed = new Promise((resolve) => client.socket.once('close', resolve));
  const answered = client.request(1, 0, SECTOR_BYTES, Buffer.alloc(SECTOR_BYTES, 1)).then(
    () => true,
    () => false,
  );
  server.disconnect();
  await closed;
  expect(await Promise.race([answered, Promise.resolve(false)])).toBe(false);
  expect(drive.cut('kept', randomOf(1, 'nbd')).unflushed).toBe(0);
});

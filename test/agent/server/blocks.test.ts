import { expect, onTestFinished, test } from 'vitest';
import { openBlocks } from '#agent/server/blocks.ts';
import { firstReachable } from '#agent/server/reach.ts';
import type { HttpAnswer } from '#agent/server/request.ts';
import { serveBlocks } from '#server/mqtt/blocks.ts';
import { BLOCK_BYTES_MAX, type BlockHeader, type BlockRequest, encodeBlock, parseBlock } from '#shared/blocks.ts';
import { Id } from '#shared/ids.ts';
import { noise } from '#test/shared/transfer/bytes.ts';

const OBJECT = noise('object', 400_000);
const GW = Id.parse('gw-01');
const NEVER = new AbortController().signal;
const FAST = { first: 40, min: 10, max: 40 };
const NEVER_AGAIN = { first: 600_000, min: 600_000, max: 600_000 };

const honest = (request: BlockRequest, object = OBJECT): { header: BlockHeader; bytes: Buffer } => {
  const bytes = object.subarray(request.offset, request.offset + request.bytes);
  const { id, offset } = request;
  return { header: { id, status: 200, offset, bytes: bytes.length, total: object.length, etag: 'e1' }, bytes };
};

/** A server that answers each request as it is told to: with any number of messages. */
const openLink = (answer: (request: BlockRequest, count: number) => Buffer[], repeatMs = FAST) => {
  const requests: BlockRequest[] = [];
  const blocks = openBlocks({
    publish: (request) => {
      requests.push(request);
      const messages = answer(request, requests.length);
      setImmediate(() => messages.forEach(blocks.receive));
      return true;
    },
    repeatMs,
  });
  return { blocks, requests };
};
const encoded = ({ header, bytes }: { header: BlockHeader; bytes: Buffer }): Buffer => encodeBlock(header, bytes);

const read = async (answer: HttpAnswer): Promise<Buffer> => {
  const pieces: Uint8Array[] = [];
  for await (const piece of answer.body ?? []) pieces.push(piece);
  return Buffer.concat(pieces);
};

test('an object comes in blocks, whole and in order, with several under way at once', async () => {
  const { blocks, requests } = openLink((request) => [encoded(honest(request))]);
  const answer = await blocks.get('/o/1', {}, NEVER);
  expect([answer.status, answer.headers.get('content-length'), answer.headers.get('etag')]).toEqual([
    200,
    '400000',
    'e1',
  ]);
  expect((await read(answer)).equals(OBJECT)).toBe(true);
  // Each block, and some of them again where the machine is slow.
  expect(new Set(requests.map(({ offset }) => offset)).size).toBe(Math.ceil(OBJECT.length / BLOCK_BYTES_MAX));
});

test('a range is a range, an empty one behind the end is none, and what is not there is said', async () => {
  const { blocks } = openLink((request) => [
    encoded(
      request.path === '/o/none'
        ? { header: { ...honest(request).header, status: 404, bytes: 0 }, bytes: Buffer.alloc(0) }
        : honest(request),
    ),
  ]);
  const part = await blocks.get('/o/1', { range: 'bytes=100000-299999' }, NEVER);
  expect([part.status, part.headers.get('content-range')]).toEqual([206, 'bytes 100000-299999/400000']);
  expect((await read(part)).equals(OBJECT.subarray(100_000, 300_000))).toBe(true);
  const rest = await blocks.get('/o/1', { range: 'bytes=399990-' }, NEVER);
  expect(await read(rest)).toHaveLength(10);
  expect((await blocks.get('/o/1', { range: 'bytes=400000-' }, NEVER)).status).toBe(416);
  expect((await blocks.get('/o/none', {}, NEVER)).status).toBe(404);
});

test('requests and answers that are lost are repeated, until it is in vain', async () => {
  // Of each block the first two: of all of them together the same one might be lost every time.
  const asked = new Map<number, number>();
  const { blocks, requests } = openLink((request) => {
    const times = (asked.get(request.offset) ?? 0) + 1;
    asked.set(request.offset, times);
    return times < 3 ? [] : [encoded(honest(request))];
  });
  expect((await read(await blocks.get('/o/1', {}, NEVER))).equals(OBJECT)).toBe(true);
  expect(requests.length).toBeGreaterThanOrEqual(3 * asked.size);
  const mute = openLink(() => []);
  await expect(mute.blocks.get('/o/1', {}, NEVER)).rejects.toThrow('no answer over MQTT');
  expect(mute.requests).toHaveLength(9);
});

const HOSTILE: Record<string, (request: BlockRequest) => Buffer[]> = {
  'with another id': (request) => [
    encoded({ ...honest(request), header: { ...honest(request).header, id: Id.parse('x') } }),
  ],
  'of another offset': (request) => [encoded({ ...honest(request), header: { ...honest(request).header, offset: 7 } })],
  'with fewer bytes than there are': (request) => {
    const { header, bytes } = honest(request);
    return [encoded({ header: { ...header, bytes: 5 }, bytes: bytes.subarray(0, 5) })];
  },
  'with more bytes than it says': (request) => [Buffer.concat([encoded(honest(request)), Buffer.alloc(9)])],
  'far too long': (request) => [encodeBlock({ ...honest(request).header, bytes: 0 }, Buffer.alloc(5_000_000))],
  'with a header that never ends': () => [Buffer.concat([Buffer.from([255, 255, 255, 255]), Buffer.alloc(1_000)])],
  'of nonsense': () => [Buffer.alloc(0), Buffer.from('x'), noise('x', 70_000), Buffer.from('\0\0\0\x02{}')],
};
for (const [what, lie] of Object.entries(HOSTILE)) {
  test(`an answer ${what} is as if there was none`, async () => {
    const { blocks } = openLink((request, count) =>
      count > 2 ? [...lie(request), encoded(honest(request))] : lie(request),
    );
    expect((await read(await blocks.get('/o/1', {}, NEVER))).equals(OBJECT)).toBe(true);
    const always = openLink(lie);
    await expect(always.blocks.get('/o/1', {}, NEVER)).rejects.toThrow('no answer over MQTT');
  });
}

test('blocks of two versions of something are not put together', async () => {
  const { blocks } = openLink((request) => {
    const { header, bytes } = honest(request);
    return [encoded({ header: { ...header, etag: request.offset > 200_000 ? 'e2' : 'e1' }, bytes })];
  });
  await expect(read(await blocks.get('/o/1', {}, NEVER))).rejects.toThrow('has changed');
});

test('a stop ends everything that is under way, and a connection that is gone is said at once', async () => {
  const stop = new AbortController();
  const { blocks } = openLink(() => []);
  const asking = blocks.get('/o/1', {}, stop.signal);
  stop.abort();
  await expect(asking).rejects.toThrow();
  const gone = openBlocks({ publish: () => false });
  await expect(gone.get('/o/1', {}, NEVER)).rejects.toThrow('not connected');
});

test('what is left in the middle asks for nothing more', async () => {
  const long = noise('long', 4_000_000);
  // Nothing is asked for twice, however slow the machine is.
  const { blocks, requests } = openLink((request) => [encoded(honest(request, long))], NEVER_AGAIN);
  const answer = await blocks.get('/o/1', {}, NEVER);
  for await (const _ of answer.body!) break;
  const asked = requests.length;
  await new Promise((resolve) => setImmediate(resolve));
  expect(requests.length).toBe(asked);
  expect(asked).toBeLessThan(12);
});

// ---- The server's side

const openServer = (more: Partial<Parameters<typeof serveBlocks>[0]> = {}) => {
  const sent: { device: Id; message: Buffer }[] = [];
  const dropped: string[] = [];
  const server = serveBlocks({
    read: async (_device, request) => ({
      status: 200,
      bytes: honest({ ...request, v: 1, id: GW }).bytes,
      total: OBJECT.length,
    }),
    send: (device, message) => {
      sent.push({ device, message });
      return 'sent';
    },
    rate: { burst: 10_000_000, perSecond: 10_000_000 },
    onDropped: (why) => void dropped.push(why),
    onError: (error) => {
      throw error;
    },
    ...more,
  });
  const request = (id: string, more_: object = {}): Buffer =>
    Buffer.from(JSON.stringify({ v: 1, id, path: '/o/1', offset: 0, bytes: 100, ...more_ }));
  return { server, sent, dropped, request };
};

test('the server answers what was asked for, under the id that was asked with', async () => {
  const { server, sent, request } = openServer();
  server.receive(GW, request('r1', { offset: 399_950 }));
  await expect.poll(() => sent).toHaveLength(1);
  const parsed = parseBlock(sent[0]!.message)!;
  expect(parsed.header).toEqual({ id: 'r1', status: 200, offset: 399_950, bytes: 50, total: 400_000 });
  expect(parsed.bytes.equals(OBJECT.subarray(399_950))).toBe(true);
});

test('what is not of the form, or asks for more than a block, or for anything but what an update takes, is dropped', () => {
  const { server, dropped, request } = openServer();
  const paths = [
    '/api/v1/devices',
    '/o/../api/v1/devices',
    '/metrics',
    '/device/v1/enrol',
    '/',
    '//o/',
    '/tuf/..//x',
    '/o/a b',
  ];
  const bad = [
    Buffer.from('nonsense'),
    request('r', { bytes: 65_537 }),
    request('r', { offset: -1 }),
    request('r', { v: 2 }),
  ];
  for (const one of [...bad, ...paths.map((path) => request('r', { path }))]) server.receive(GW, one);
  expect(dropped).toEqual(Array(bad.length + paths.length).fill('block-malformed'));
});

test('a device has at most eight requests under way; the rest is dropped, and others are served', async () => {
  const reading = Promise.withResolvers<void>();
  const { server, sent, dropped, request } = openServer({
    read: async () => {
      await reading.promise;
      return { status: 200, bytes: Buffer.alloc(1), total: 1 };
    },
  });
  for (let count = 0; count < 20; count += 1) server.receive(GW, request(`r${count}`));
  server.receive(Id.parse('gw-02'), request('r'));
  expect(dropped).toEqual(Array(12).fill('block-window'));
  reading.resolve();
  await expect.poll(() => sent).toHaveLength(9);
  server.receive(GW, request('again'));
  await expect.poll(() => sent).toHaveLength(10);
});

test('a device gets so many bytes a second, after its burst', async () => {
  const { server, sent, request } = openServer({ rate: { burst: 1_000, perSecond: 10_000 } });
  const began = performance.now();
  for (let count = 0; count < 6; count += 1) server.receive(GW, request(`r${count}`, { bytes: 500 }));
  await expect.poll(() => sent).toHaveLength(6);
  // 2,000 bytes beyond the burst.
  expect(performance.now() - began).toBeGreaterThan(190);
});

test('a device that does not read waits; one that has gone is forgotten', async () => {
  let looks = 0;
  const { server, sent, request } = openServer({
    send: (device, message) => {
      looks += 1;
      if (looks < 4) return 'full';
      sent.push({ device, message });
      return 'sent';
    },
  });
  server.receive(GW, request('r1'));
  await expect.poll(() => sent).toHaveLength(1);
  expect(looks).toBe(4);
  const slow = openServer({ rate: { burst: 1, perSecond: 1_000 } });
  slow.server.receive(GW, slow.request('r1'));
  slow.server.forget(GW);
  slow.server.receive(Id.parse('gw-02'), slow.request('r2'));
  await expect.poll(() => slow.sent).toHaveLength(1);
  expect(slow.sent[0]!.device).toBe('gw-02');
});

// ---- Which of the two

test('HTTP comes first, MQTT while it cannot be reached, and HTTP again when it is back', async () => {
  const said: string[] = [];
  const state = { http: 'up' as 'up' | 'refused' | 'silent', mqtt: true };
  const answerOf = (who: string): HttpAnswer => ({ status: 200, headers: { get: () => who }, body: null });
  const get = firstReachable({
    http: async (_path, _headers, signal) => {
      if (state.http === 'refused') throw new Error('refused');
      if (state.http === 'up') return answerOf('http');
      await new Promise((resolve) => void signal.addEventListener('abort', resolve, { once: true }));
      throw new Error('too late');
    },
    blocks: () => (state.mqtt ? async () => answerOf('mqtt') : undefined),
    log: { info: (...words: unknown[]) => void said.push((words[0] as { event: string }).event) },
    answerMs: 20,
    againMs: 40,
  });
  const who = async (): Promise<string | null> => (await get('/o/1', {}, NEVER)).headers.get('who');
  expect(await who()).toBe('http');
  for (const http of ['refused', 'silent'] as const) {
    state.http = http;
    expect(await who()).toBe('mqtt');
    expect(await who()).toBe('mqtt');
    state.http = 'up';
    await expect.poll(who).toBe('http');
  }
  state.http = 'refused';
  state.mqtt = false;
  await expect(who()).rejects.toThrow('refused');
  expect(said).toEqual(['http-away', 'http-back', 'http-away', 'http-back']);
});

test('the one who asked stays the one who stops', async () => {
  const stop = new AbortController();
  onTestFinished(() => stop.abort());
  const get = firstReachable({
    http: async (_path, _headers, signal) => {
      await new Promise((resolve) => void signal.addEventListener('abort', resolve, { once: true }));
      throw new Error('stopped');
    },
    blocks: () => () => Promise.reject(new Error('must not be asked')),
    log: { info: () => undefined },
  });
  const asking = get('/o/1', {}, stop.signal);
  stop.abort();
  await expect(asking).rejects.toThrow('stopped');
});

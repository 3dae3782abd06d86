import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { type HttpAnswer, request } from '#agent/server/request.ts';
import { type FetchOptions, type FetchResult, fetchArtifact } from '#agent/transfer/fetch.ts';
import { Sha256 } from '#shared/ids.ts';

const CONTENT = randomBytes(300_000);
const SHA256 = Sha256.parse(createHash('sha256').update(CONTENT).digest('hex'));
const ETAG = `"${SHA256}"`;
const artifact = { bytes: CONTENT.length, sha256: SHA256 };

/**
 * `read` calls back when the client has read so many bytes of this answer: what a broken connection had in its buffers
 * would be lost.
 */
type Answer = (
  request: IncomingMessage,
  response: ServerResponse,
  read: (bytes: number, back: () => void) => void,
) => void;

/** What an honest server does: RFC 9110, sections 13.1.5 and 14.2. */
const honest = (request: IncomingMessage, response: ServerResponse): void => {
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? Number.NaN);
  const fresh = request.headers['if-range'] === undefined || request.headers['if-range'] === ETAG;
  response.setHeader('etag', ETAG);
  if (Number.isNaN(from) || !fresh) return void response.end(CONTENT);
  if (from >= CONTENT.length) return void response.writeHead(416).end();
  response.writeHead(206, { 'content-range': `bytes ${from}-${CONTENT.length - 1}/${CONTENT.length}` });
  return void response.end(CONTENT.subarray(from));
};

/** Sends the head of an answer of the announced length, and breaks the connection as soon as that has been read. */
const breakAfter =
  (bytes: number, headers: Record<string, string> = { etag: ETAG }): Answer =>
  (_request, response, read) => {
    response.writeHead(200, { 'content-length': CONTENT.length, ...headers });
    response.write(CONTENT.subarray(0, bytes));
    read(bytes, () => response.destroy());
  };

/** The n-th request gets the n-th answer, all later ones the last. */
const serve = async (answers: Answer[]) => {
  const requests: IncomingMessage['headers'][] = [];
  let delivered = 0;
  let waiting: { bytes: number; back: () => void } | undefined;
  const watched = (answer: HttpAnswer): HttpAnswer => {
    async function* pieces(): AsyncGenerator<Uint8Array> {
      for await (const piece of answer.body!) {
        yield piece;
        delivered += piece.length;
        if (waiting !== undefined && delivered >= waiting.bytes) waiting.back();
      }
    }
    return { ...answer, body: { [Symbol.asyncIterator]: pieces, cancel: () => answer.body!.cancel() } };
  };
  const server = createServer((request, response) => {
    requests.push({ path: request.url, ...request.headers });
    delivered = 0;
    waiting = undefined;
    answers[Math.min(requests.length, answers.length) - 1]!(request, response, (bytes, back) => {
      waiting = { bytes, back };
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' ? address!.port : 0;
  const dir = await mkdtemp(join(tmpdir(), 'sluice-fetch-'));
  onTestFinished(async () => {
    server.closeAllConnections();
    server.close();
    await rm(dir, { recursive: true, force: true });
  });
  const get: FetchOptions['get'] = async (path, headers, signal) =>
    watched(await request(`http://127.0.0.1:${port}${path}`, { headers, signal }));
  const attempt = (more: Partial<FetchOptions> = {}): Promise<FetchResult> =>
    fetchArtifact({
      get,
      artifact,
      dir,
      signal: new AbortController().signal,
      ...more,
    });
  const part = (): Promise<Buffer> => readFile(join(dir, `${SHA256}.part`));
  return { dir, requests, get, attempt, part };
};

const outcomeOf = async (result: FetchResult): Promise<string> => {
  if (!result.ok) return `${result.code}: ${result.message}`;
  return CONTENT.equals(await readFile(result.file)) ? 'whole' : 'wrong bytes';
};

test('an artifact arrives under its digest, and nothing else is left in the folder', async () => {
  const { dir, requests, attempt } = await serve([honest]);
  const progress: number[] = [];
  expect(await outcomeOf(await attempt({ onProgress: (bytes) => progress.push(bytes) }))).toBe('whole');
  expect(await readdir(dir)).toEqual([SHA256]);
  expect(requests).toMatchObject([{ path: `/o/${SHA256}` }]);
  expect(requests[0]).not.toHaveProperty('range');
  expect(progress.at(-1)).toBe(CONTENT.length);
});

test('what is complete is not fetched again', async () => {
  const { requests, attempt } = await serve([honest]);
  await attempt();
  expect(await outcomeOf(await attempt())).toBe('whole');
  expect(requests.length).toBe(1);
});

test('what is complete but damaged on the disk is fetched again', async () => {
  const { dir, requests, attempt } = await serve([honest]);
  await attempt();
  await writeFile(join(dir, SHA256), randomBytes(CONTENT.length));
  expect(await outcomeOf(await attempt())).toBe('whole');
  expect(requests.length).toBe(2);
});

test('a broken download resumes where it broke, and fetches nothing twice', async () => {
  const { requests, attempt, part } = await serve([breakAfter(123_456), honest]);
  expect(await attempt()).toMatchObject({ ok: false, code: 'FETCH_FAILED', retry: true });
  const have = (await part()).length;
  expect(have).toBe(123_456);
  expect(await outcomeOf(await attempt())).toBe('whole');
  expect(requests[1]).toMatchObject({ range: `bytes=${have}-`, 'if-range': ETAG });
});

test('21: connection flapping, idle hang, download: backoff, finite budget (it flaps at every attempt)', async () => {
  const flap: Answer = (request, response, read) => {
    const from = Number(/\d+/.exec(request.headers.range ?? '0')?.[0]);
    if (from + 40_000 >= CONTENT.length) return honest(request, response);
    const head = { etag: ETAG, 'content-length': CONTENT.length - from };
    const range = { 'content-range': `bytes ${from}-${CONTENT.length - 1}/${CONTENT.length}` };
    response.writeHead(from === 0 ? 200 : 206, from === 0 ? head : { ...head, ...range });
    response.write(CONTENT.subarray(from, from + 40_000));
    return read(40_000, () => response.destroy());
  };
  const { attempt } = await serve([flap]);
  let result = await attempt();
  for (let attempts = 1; attempts < 20 && !result.ok; attempts += 1) result = await attempt();
  expect(await outcomeOf(result)).toBe('whole');
});

test('a part that was complete when the power went is not asked for again', async () => {
  const { dir, requests, attempt } = await serve([honest]);
  await writeFile(join(dir, `${SHA256}.part`), CONTENT);
  expect(await outcomeOf(await attempt())).toBe('whole');
  expect(requests.length).toBe(0);
});

const withPart = async (bytes: Uint8Array, answers: Answer[]) => {
  const served = await serve(answers);
  await writeFile(join(served.dir, `${SHA256}.part`), bytes);
  return served;
};
const HALF = CONTENT.subarray(0, 150_000);

test('20: wrong Content-Range, 200 for 206, changed ETag, resume: no mixed bytes (200)', async () => {
  const { attempt } = await withPart(HALF, [(_request, response) => void response.end(CONTENT)]);
  expect(await outcomeOf(await attempt())).toBe('whole');
});

test('20: wrong Content-Range, 200 for 206, changed ETag, resume: no mixed bytes (changed ETag)', async () => {
  const replaced: Answer = (request, response) => {
    // Ignores If-Range, and so mixes two objects if the client lets it.
    if (request.headers.range === undefined) return honest(request, response);
    response.writeHead(206, { etag: '"other"', 'content-range': `bytes 150000-299999/300000` });
    return void response.end(randomBytes(150_000));
  };
  const { requests, attempt } = await withPart(HALF, [replaced]);
  expect(await outcomeOf(await attempt())).toBe('whole');
  expect(requests.map((request) => request['range'])).toEqual(['bytes=150000-', undefined]);
});

test('the tag of the server that sent the first part is the one that is asked for', async () => {
  const { requests, attempt } = await serve([breakAfter(100_000, { etag: '"of-a-cdn"' }), honest]);
  await attempt();
  expect(await outcomeOf(await attempt())).toBe('whole');
  expect(requests[1]).toMatchObject({ 'if-range': '"of-a-cdn"' });
});

test('a weak tag cannot be resumed from', async () => {
  const { requests, attempt } = await serve([breakAfter(100_000, { etag: 'W/"weak"' }), honest]);
  await attempt();
  expect(await outcomeOf(await attempt())).toBe('whole');
  expect(requests[1]).not.toHaveProperty('range');
});

for (const range of [
  'bytes 0-149999/300000',
  'bytes 150001-299999/300000',
  'bytes 150000-299999/400000',
  'nonsense',
  '',
]) {
  test(`20: wrong Content-Range, 200 for 206, changed ETag, resume: no mixed bytes (Content-Range "${range}")`, async () => {
    const lie: Answer = (request, response) => {
      if (request.headers.range === undefined) return honest(request, response);
      response.writeHead(206, { etag: ETAG, ...(range === '' ? {} : { 'content-range': range }) });
      return void response.end(randomBytes(150_000));
    };
    const { attempt } = await withPart(HALF, [lie]);
    expect(await outcomeOf(await attempt())).toBe('whole');
  });
}

test('a server without that range (416) is asked for the whole', async () => {
  const { attempt } = await withPart(HALF, [(_request, response) => void response.writeHead(416).end(), honest]);
  expect(await outcomeOf(await attempt())).toBe('whole');
});

test('a part that is too long is thrown away', async () => {
  const { requests, attempt } = await withPart(randomBytes(CONTENT.length + 1), [honest]);
  expect(await outcomeOf(await attempt())).toBe('whole');
  expect(requests[0]).not.toHaveProperty('range');
});

test('a server that answers 206 and 416 to everything ends the attempt', async () => {
  for (const answer of [206, 416]) {
    const { requests, attempt } = await withPart(HALF, [(_request, response) => void response.writeHead(answer).end()]);
    expect(await attempt()).toMatchObject({ ok: false, code: 'FETCH_FAILED', retry: true });
    expect(requests.length).toBe(2);
  }
});

test('a flipped byte is found, the part deleted, and the next attempt begins again', async () => {
  const flipped = Buffer.from(CONTENT);
  flipped[200_000]! ^= 1;
  const { dir, attempt } = await serve([(_request, response) => void response.end(flipped), honest]);
  expect(await attempt()).toMatchObject({ ok: false, code: 'TARGET_HASH', retry: true });
  expect(await readFile(join(dir, `${SHA256}.part`))).toHaveLength(0);
  expect(await outcomeOf(await attempt())).toBe('whole');
});

test('a part that was damaged on the disk is found, and the next attempt begins again', async () => {
  const { attempt } = await withPart(randomBytes(150_000), [honest]);
  expect(await attempt()).toMatchObject({ ok: false, code: 'TARGET_HASH', retry: true });
  expect(await outcomeOf(await attempt())).toBe('whole');
});

test('more bytes than were signed are endless data, announced or not', async () => {
  const announced: Answer = (_request, response) => void response.end(Buffer.concat([CONTENT, CONTENT]));
  const endless: Answer = (_request, response) => {
    const pump = (): void => void (response.destroyed || response.write(CONTENT, pump));
    pump();
  };
  for (const answer of [announced, endless]) {
    const { attempt } = await serve([answer]);
    expect(await attempt()).toMatchObject({ ok: false, code: 'ENDLESS_DATA' });
  }
});

test('a body that ends early without an announced length is not taken for whole', async () => {
  const short: Answer = (_request, response) => {
    response.flushHeaders();
    response.end(HALF);
  };
  const { attempt, part } = await serve([short]);
  expect(await attempt()).toMatchObject({ ok: false, code: 'FETCH_FAILED', retry: true });
  expect((await part()).length).toBe(HALF.length);
});

/**
 * Hands an answer on once so much of it is there, in one piece: it is not slow before that, however slow the machine
 * is.
 */
const afterBytes =
  (bytes: number, get: FetchOptions['get']): FetchOptions['get'] =>
  async (...asked) => {
    const answer = await get(...asked);
    const rest = answer.body![Symbol.asyncIterator]();
    const came: Uint8Array[] = [];
    for (let have = 0; have < bytes; have += came.at(-1)!.length) came.push((await rest.next()).value as Uint8Array);
    async function* pieces(): AsyncGenerator<Uint8Array> {
      yield Buffer.concat(came);
      yield* { [Symbol.asyncIterator]: () => rest };
    }
    return { ...answer, body: { [Symbol.asyncIterator]: pieces, cancel: () => answer.body!.cancel() } };
  };

test('21: connection flapping, idle hang, download: backoff, finite budget (an answer that stalls, or drips: what came is kept)', async () => {
  const stall = (_request: IncomingMessage, response: ServerResponse): void => {
    response.writeHead(200, { 'content-length': CONTENT.length });
    response.write(HALF);
  };
  const drip: Answer = (request, response) => {
    stall(request, response);
    const dripping = setInterval(() => response.write('x'), 5);
    response.on('close', () => clearInterval(dripping));
  };
  for (const answer of [stall, drip]) {
    const { get, attempt, part } = await serve([answer]);
    const limits = { windowMs: 100, windowBytesMin: 1_000 };
    const result = await attempt({ get: afterBytes(HALF.length, get), limits });
    expect(result).toMatchObject({ ok: false, code: 'SLOW_RETRIEVAL', retry: true });
    expect((await part()).length).toBeGreaterThanOrEqual(HALF.length);
  }
});

test('21: connection flapping, idle hang, download: backoff, finite budget (a server that never answers)', async () => {
  const { attempt } = await serve([() => undefined]);
  const result = await attempt({ limits: { headersMs: 50 } });
  expect(result).toMatchObject({ ok: false, code: 'FETCH_FAILED', retry: true, message: /not answer in time/ });
});

test('a server that refuses says what it answered', async () => {
  for (const [status, retry] of [
    [404, true],
    [401, true],
    [503, true],
    [410, false],
  ] as const) {
    const { attempt } = await serve([(_request, response) => void response.writeHead(status).end('no')]);
    const result = await attempt();
    expect(result).toMatchObject({ ok: false, code: 'FETCH_FAILED', retry, message: new RegExp(String(status)) });
  }
});

test('a server that is not there is a failure to retry', async () => {
  const { attempt } = await serve([honest]);
  const get: FetchOptions['get'] = (path, headers, signal) => request(`http://127.0.0.1:1${path}`, { headers, signal });
  expect(await attempt({ get })).toMatchObject({ ok: false, code: 'FETCH_FAILED', retry: true });
});

test('stopping ends a download at once, to be resumed later', async () => {
  const stop = new AbortController();
  const half: Answer = (_request, response, read) => {
    response.writeHead(200, { 'content-length': CONTENT.length, etag: ETAG });
    response.write(HALF);
    read(HALF.length, () => stop.abort());
  };
  const { attempt } = await serve([half, honest]);
  expect(await attempt({ signal: stop.signal })).toMatchObject({ ok: false, code: 'FETCH_FAILED', retry: false });
  expect(await outcomeOf(await attempt())).toBe('whole');
});

test('a full disk is no space', async () => {
  const { dir, attempt } = await serve([honest]);
  await symlink('/dev/full', join(dir, `${SHA256}.part`));
  expect(await attempt()).toMatchObject({ ok: false, code: 'NO_SPACE', retry: true });
});

test('an empty artifact needs no server', async () => {
  const { requests, attempt } = await serve([honest]);
  const empty = { bytes: 0, sha256: Sha256.parse(createHash('sha256').digest('hex')) };
  expect(await attempt({ artifact: empty })).toMatchObject({ ok: true });
  expect(requests).toEqual([]);
});

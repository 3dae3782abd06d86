import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import { expect, onTestFinished, test } from 'vitest';
import { type HttpAnswer, request } from '#agent/server/request.ts';

const serve = async (listener: RequestListener) => {
  const server = createServer(listener).listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const address = server.address();
  return { url: `http://127.0.0.1:${typeof address === 'object' ? address!.port : 0}` };
};
const plain = { headers: {}, signal: new AbortController().signal };

const textOf = async (answer: HttpAnswer): Promise<string> => {
  const pieces: Uint8Array[] = [];
  for await (const piece of answer.body ?? []) pieces.push(piece);
  return Buffer.concat(pieces).toString();
};

test('a GET and a POST are answered with status, headers and body', async () => {
  const { url } = await serve((asked, answer) => {
    answer.setHeader('x-method', asked.method!);
    void asked.pipe(answer.writeHead(asked.method === 'POST' ? 201 : 200));
  });
  const got = await request(url, plain);
  expect([got.status, got.headers.get('X-Method'), got.headers.get('etag'), await textOf(got)]).toEqual([
    200,
    'GET',
    null,
    '',
  ]);
  const posted = await request(url, { ...plain, method: 'POST', body: 'größer' });
  expect([posted.status, await textOf(posted)]).toEqual([201, 'größer']);
});

test('a login follows a redirect within its server, and never to another one', async () => {
  const seen: (string | undefined)[] = [];
  const other = await serve((asked, answer) => {
    seen.push(asked.headers.authorization);
    answer.end('there');
  });
  const { url } = await serve((asked, answer) => {
    seen.push(asked.headers.authorization);
    answer.writeHead(302, { location: asked.url === '/' ? '/next' : `${other.url}/object` }).end();
  });
  const answer = await request(url, { ...plain, headers: { authorization: 'Device x', range: 'bytes=1-' } });
  expect(await textOf(answer)).toBe('there');
  expect(seen).toEqual(['Device x', 'Device x', undefined]);
});

test('redirects in a circle, or to something that is not HTTP, end', async () => {
  const { url } = await serve((asked, answer) => {
    answer.writeHead(301, { location: asked.url === '/file' ? 'file:///etc/passwd' : '/again' }).end();
  });
  await expect(request(url, plain)).rejects.toThrow('redirected');
  await expect(request(`${url}/file`, plain)).rejects.toThrow('redirected');
});

test('no one there, an answer that breaks off, and an abort are errors that are none of the disk', async () => {
  const { url } = await serve((_asked, answer) => {
    answer.writeHead(200, { 'content-length': 100 });
    answer.write('half', () => answer.destroy());
  });
  await expect(textOf(await request(url, plain))).rejects.toMatchObject({ name: 'RequestFailed' });
  const stopping = new AbortController();
  const { url: silent } = await serve(() => stopping.abort());
  await expect(request(silent, { headers: {}, signal: stopping.signal })).rejects.toMatchObject({ name: 'AbortError' });
  // A port that no one has: one that is free again may be given to the next who asks.
  const nobody = request('http://127.0.0.1:1', plain);
  await expect(nobody).rejects.toMatchObject({ name: 'RequestFailed', cause: { code: 'ECONNREFUSED' } });
});

test('an abort ends the reading of an answer that never ends', async () => {
  const { url } = await serve((_asked, answer) => void answer.writeHead(200).write('some'));
  const stopping = new AbortController();
  const answer = await request(url, { headers: {}, signal: stopping.signal });
  const reading = (async () => {
    for await (const _piece of answer.body!) stopping.abort();
  })();
  await expect(reading).rejects.toMatchObject({ name: 'AbortError' });
});

test('an abort of an answer that has come whole, and is not read to its end, ends nothing else', async () => {
  const { url } = await serve((_asked, answer) => void answer.end(Buffer.alloc(10_000)));
  const thrown: unknown[] = [];
  const note = (error: unknown): void => void thrown.push(error);
  process.on('uncaughtException', note);
  onTestFinished(() => void process.off('uncaughtException', note));
  for (let turn = 0; turn < 10; turn += 1) {
    const stop = new AbortController();
    const answer = await request(url, { ...plain, signal: stop.signal });
    await answer.body?.[Symbol.asyncIterator]().next();
    stop.abort();
    // The connection's end, and what it may have to say.
    await textOf(await request(url, plain));
  }
  expect(thrown).toEqual([]);
});

test('a kept connection that its server has just closed is not taken for a server that is gone', async () => {
  let answered = 0;
  const { url } = await serve((asked, answer) => {
    answered += 1;
    // The second request on a connection finds it closed.
    if (answered === 2) asked.socket.destroy();
    else answer.end('well');
  });
  expect(await textOf(await request(url, plain))).toBe('well');
  expect(await textOf(await request(url, plain))).toBe('well');
  expect(answered).toBe(3);
});

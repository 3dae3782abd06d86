import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { z } from 'zod';
import { buildApp, handle } from '#server/http/app.ts';
import type { BodyLimits } from '#server/http/body-guard.ts';
import { routes } from '#shared/api.ts';
import { accept, refuse } from '#shared/problems.ts';
import { type Role, type Route, route } from '#shared/route.ts';
import { type Api, withApi } from './rig.ts';

const word = (roles: readonly Role[]) =>
  route({
    method: 'POST',
    path: '/word',
    roles,
    tags: [],
    summary: 'A route for tests',
    body: z.object({ word: z.string() }),
    answer: z.object({ length: z.number() }),
  });

const served = async (options: { roles?: readonly Role[]; limits?: BodyLimits; gate?: () => boolean } = {}) => {
  const { roles = ['public'], limits, gate } = options;
  const app = await buildApp({
    version: '0.0.0',
    findOperator: async () => undefined,
    verifyDevice: async () => refuse('unauthenticated', 'no'),
    ...(limits === undefined ? {} : { bodies: { strangers: limits, known: limits } }),
  });
  onTestFinished(() => app.close());
  let handled = 0;
  handle(
    app,
    word(roles),
    async ({ body }) => {
      handled += 1;
      return accept({ length: body.word.length });
    },
    gate === undefined ? undefined : () => (gate() ? undefined : refuse('rate-limited', 'not now')),
  );
  const url = await app.listen({ port: 0, host: '127.0.0.1' });
  return { app, port: Number(new URL(url).port), handled: () => handled };
};

type Sender = { socket: Socket; answer: () => string; ended: Promise<unknown> };
const send = async (port: number, text: string): Promise<Sender> => {
  const socket = connect(port, '127.0.0.1');
  onTestFinished(() => void socket.destroy());
  let said = '';
  socket.on('data', (bytes) => (said += bytes.toString()));
  socket.on('error', () => undefined);
  const ended = once(socket, 'close').catch(() => undefined);
  await once(socket, 'connect');
  socket.write(text);
  return { socket, answer: () => said, ended };
};
const post = (length: number, path = '/word'): string =>
  `POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${length}\r\n\r\n`;
const statusOf = async ({ answer }: Sender): Promise<number> => {
  await expect.poll(answer).toMatch(/^HTTP\/1\.1 \d+/);
  return Number(answer().slice(9, 12));
};

const HOUR = 3_600_000;
const GENEROUS: BodyLimits = { bytesMax: 1e9, perAddressBytesMax: 1e9, msMax: HOUR };

test('a body that is announced larger than its route takes is refused before a byte of it is read', async () => {
  const { port, handled } = await served();
  const sender = await send(port, post(8_000_000));
  expect(await statusOf(sender)).toBe(413);
  await sender.ended;
  expect(handled()).toBe(0);
});

test('a body without a length is cut where the route’s limit is', async () => {
  const { port } = await served();
  const head = post(0).replace('content-length: 0', 'transfer-encoding: chunked');
  const sender = await send(port, `${head}11000\r\n${'x'.repeat(0x11000)}\r\n`);
  expect(await statusOf(sender)).toBe(413);
  await sender.ended;
});

test('what does not exist, and what needs a login, is answered without its body', async () => {
  const { port } = await served({ roles: ['operator'] });
  for (const [path, status] of [
    ['/nowhere', 404],
    ['/word', 401],
  ] as const) {
    const sender = await send(port, `${post(60_000, path)}{"word":`);
    expect(await statusOf(sender)).toBe(status);
    sender.socket.destroy();
  }
});

test('how often an address asks is looked at before its body comes', async () => {
  const { port } = await served({ gate: () => false });
  expect(await statusOf(await send(port, post(60_000)))).toBe(429);
});

test('bodies on their way are bounded for each address and in all, and their room comes back', async () => {
  const { port } = await served({ limits: { ...GENEROUS, perAddressBytesMax: 100_000 } });
  const first = await send(port, `${post(60_000)}{"word":`);
  const second = await send(port, post(60_000));
  expect(await statusOf(second)).toBe(429);
  first.socket.destroy();
  const body = JSON.stringify({ word: 'again' });
  await expect
    .poll(
      async () =>
        (
          await fetch(`http://127.0.0.1:${port}/word`, {
            method: 'POST',
            body,
            headers: { 'content-type': 'application/json' },
          })
        ).status,
    )
    .toBe(200);
  const all = await served({ limits: { ...GENEROUS, bytesMax: 100_000 } });
  await send(all.port, `${post(60_000)}{"word":`);
  expect(await statusOf(await send(all.port, post(60_000)))).toBe(503);
});

test('a body that does not come is answered with 408, and its connection ends', async () => {
  const { port, handled } = await served({ limits: { ...GENEROUS, msMax: 50 } });
  const sender = await send(port, `${post(60_000)}{"word":`);
  expect(await statusOf(sender)).toBe(408);
  expect(sender.answer()).toContain('urn:sluice:problem:too-slow');
  await sender.ended;
  expect(handled()).toBe(0);
});

let api: Api;
withApi((opened) => {
  api = opened;
});

test('no route reads a large body of someone it does not know', async () => {
  const port = Number(new URL(await api.app.listen({ port: 0, host: '127.0.0.1' })).port);
  const all = Object.values<Route>(routes).filter(({ method }) => method !== 'GET');
  expect(all.length).toBeGreaterThan(15);
  for (const { method, path } of all) {
    const sender = await send(port, post(8_000_000, path.replaceAll(/:\w+/g, 'a')).replace('POST', method));
    expect(await statusOf(sender)).toBe(401);
    sender.socket.destroy();
  }
});

test('a cohort of millions of wrong ids is refused in one sentence', async () => {
  const devices = Array.from({ length: 2_000_000 }, () => ({}));
  const answer = await api.call('operator', 'POST', 'cohorts', { name: 'many', devices });
  expect([answer.status, answer.body.issues.length < 200]).toEqual([400, true]);
});

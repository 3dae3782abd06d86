import { once } from 'node:events';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, onTestFinished, test } from 'vitest';
import { openLocalApi } from '#agent/local/local-api.ts';
import type { Status } from '#agent/local/status-file.ts';
import { readStatus } from '#agent/local/status-text.ts';
import { APPS, openDevice, startTestServer, until } from '../harness.ts';

const ask = async (socketPath: string, method: string, path: string, body?: object) => {
  const asking = request({ socketPath, method, path, agent: false });
  asking.end(body === undefined ? undefined : JSON.stringify(body));
  const [answer] = await once(asking, 'response');
  const pieces: Buffer[] = [];
  for await (const piece of answer) pieces.push(piece);
  return { status: answer.statusCode as number, body: JSON.parse(Buffer.concat(pieces).toString()) };
};

test('local programs see what goes on, and may consent to an install and defer an activation, within limits', async () => {
  const server = await startTestServer();
  const consent = { askMs: 3_600_000, deferralsMax: 2, deferMsMax: 3_600_000 };
  const device = await openDevice(server, { consent });
  const agent = device.start();
  const socket = join(device.dataDir, 'agent.sock');
  await until('the socket is there, for its owner only', () =>
    stat(socket).then(
      ({ mode }) => (mode & 0o777) === 0o600,
      () => false,
    ),
  );
  expect(await ask(socket, 'GET', '/v1/state')).toMatchObject({ status: 200, body: { state: 'idle', hold: null } });
  expect(await ask(socket, 'POST', '/v1/consent')).toMatchObject({ status: 409 });
  const seen: { state: string; hold: { step: string; why: string } | null }[] = [];
  const watching = request({ socketPath: socket, path: '/v1/watch', agent: false });
  watching.end();
  const [stream] = await once(watching, 'response');
  // The agent ends before this reader does.
  stream.on('error', () => undefined);
  createInterface({ input: stream }).on('line', (line) => seen.push(JSON.parse(line)));

  server.desire((await server.publishRelease('1.0.0', APPS.good)).instruction);
  await until(
    'it asks for consent to install',
    () => seen.at(-1)?.hold?.step === 'install',
    60_000,
    () => seen,
  );
  expect(seen.at(-1)).toMatchObject({ state: 'waiting', hold: { why: 'asked', deferralsLeft: 2 } });
  await until('the server hears of it', () => server.state.reports.at(-1)?.deployment?.state === 'waiting');
  expect(await ask(socket, 'POST', '/v1/consent')).toEqual({ status: 200, body: {} });

  await until(
    'it asks for consent to activate',
    () => seen.at(-1)?.hold?.step === 'activation',
    60_000,
    () => seen,
  );
  const deferral = { seconds: 1_000_000, reason: 'a patient is connected' };
  const deferred = await ask(socket, 'POST', '/v1/defer', deferral);
  expect(deferred).toMatchObject({
    status: 200,
    body: { hold: { why: 'deferred', reason: deferral.reason, deferralsLeft: 1 } },
  });
  expect(deferred.body.hold.until).toBeLessThanOrEqual(Date.now() + consent.deferMsMax);
  const told = /waits +the activation is deferred until .*: a patient/;
  await until('people are told', async () => told.test((await readStatus(device.dataDir, Date.now()))?.text ?? ''));
  // It is not forgotten by a restart.
  await agent.stop();
  const again = device.start();
  await until('it waits again', async () => {
    const answer = await ask(socket, 'GET', '/v1/state').catch(() => undefined);
    return answer?.body.hold?.why === 'deferred';
  });
  expect(await ask(socket, 'POST', '/v1/defer', { seconds: 60 })).toMatchObject({ status: 200 });
  expect(await ask(socket, 'POST', '/v1/defer', { seconds: 60 })).toMatchObject({
    status: 409,
    body: { detail: expect.stringContaining('2 times') },
  });
  expect(await ask(socket, 'POST', '/v1/consent')).toMatchObject({ status: 200 });
  await until('it is committed', () => server.state.receipts.length === 1);
  expect(server.state.receipts[0]).toMatchObject({ outcome: 'committed' });
  await again.stop();
  await expect(stat(socket)).rejects.toMatchObject({ code: 'ENOENT' });
  expect(await readStatus(device.dataDir, Date.now())).toMatchObject({
    alive: false,
    text: expect.stringContaining('DOES NOT RUN'),
  });
});

test('a file holds the activation back, and what is no question is refused', async () => {
  const server = await startTestServer();
  const device = await openDevice(server);
  const agent = device.start();
  const socket = join(device.dataDir, 'agent.sock');
  await until('the socket is there', () =>
    stat(socket).then(
      () => true,
      () => false,
    ),
  );
  await writeFile(join(device.dataDir, 'inhibit-activation'), '');
  server.desire((await server.publishRelease('1.0.0', APPS.good)).instruction);
  await until(
    'it is ready, and waits',
    async () => (await ask(socket, 'GET', '/v1/state')).body.hold?.why === 'inhibited',
  );
  expect((await ask(socket, 'GET', '/v1/state')).body).toMatchObject({
    state: 'ready',
    hold: { step: 'activation', until: null },
  });
  expect(await ask(socket, 'GET', '/etc/passwd')).toMatchObject({ status: 404 });
  expect(await ask(socket, 'POST', '/v1/defer', { seconds: -1 })).toMatchObject({ status: 400 });
  expect(await ask(socket, 'POST', '/v1/defer', { seconds: 1, reason: 'x'.repeat(10_000) })).toMatchObject({
    status: 400,
  });
  expect(server.state.receipts).toEqual([]);
  await rm(join(device.dataDir, 'inhibit-activation'));
  await until('it is committed', () => server.state.receipts.length === 1);
  const shown = /^device +gw-01\nagent +\d+\.\d+\.\d+ runs.*\nserver +connected\nruns +gateway@1\.0\.0 \(slot a\)/;
  await until('people see it', async () => shown.test((await readStatus(device.dataDir, Date.now()))?.text ?? ''));
  await agent.stop();
});

// Found by reading: the last of the states that were left out was never sent.
test('who watches and does not read gets the newest state in the end, and how many were left out', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-local-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const socket = join(dir, 'agent.sock');
  const stateOf = (n: number): Status => ({ n, ballast: 'x'.repeat(50_000) }) as unknown as Status;
  const watchers: ((status: Status) => void)[] = [];
  const api = await openLocalApi({
    socket,
    mode: 0o600,
    status: { now: async () => stateOf(0), watch: (watcher) => (watchers.push(watcher), () => undefined) },
    holds: {
      defer: () => Promise.reject(new Error('not asked')),
      consent: () => Promise.reject(new Error('not asked')),
    },
    log: { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined },
  });
  const watching = request({ socketPath: socket, path: '/v1/watch', agent: false });
  watching.end();
  const [stream] = await once(watching, 'response');
  // Nothing is read until all has been said: more than any buffer between the two holds.
  for (let n = 1; n <= 400; n += 1) watchers[0]!(stateOf(n));
  stream.on('error', () => undefined);
  const seen: { n: number; missed?: number }[] = [];
  const lines = createInterface({ input: stream }).on('error', () => undefined);
  lines.on('line', (line) => seen.push(JSON.parse(line)));
  await until('the newest has come', () => seen.at(-1)?.n === 400);
  watching.destroy();
  await api.stop();
  for (const [index, { n, missed }] of seen.entries()) expect(n - (seen[index - 1]?.n ?? -1) - 1).toBe(missed ?? 0);
  expect(seen.some(({ missed }) => missed !== undefined)).toBe(true);
});

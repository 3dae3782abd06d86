/** Whatever an agent does not act on is told: on the device, and to its server. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Status } from '#agent/local/status-file.ts';
import { APPS, openDevice, startTestServer, until } from './harness.ts';

const YEARS_MS = 3 * 365 * 86_400_000;

const watched = async (server: Awaited<ReturnType<typeof startTestServer>>, settings: Record<string, unknown> = {}) => {
  const device = await openDevice(server, settings);
  const agent = device.start();
  const status = async (): Promise<Status> =>
    JSON.parse(await readFile(join(device.dataDir, 'status.json'), 'utf8').catch(() => '{}'));
  const told = (): string | undefined => server.state.reports.at(-1)?.attributes['refused'];
  return { agent, status, told };
};

test('a device for which the root has expired says so in its status and to its server, and once in its log', async () => {
  const server = await startTestServer(undefined, () => Date.now() - YEARS_MS);
  const { agent, status, told } = await watched(server);
  const one = await server.publishRelease('1.0.0', APPS.good);
  server.desire(one.instruction, { expires: Date.now() + YEARS_MS });
  await until('the server is told', () => told() === 'ROOT_EXPIRED');
  await until('its status says so', async () => (await status()).refusal?.code === 'ROOT_EXPIRED');
  expect((await status()).refusal).toMatchObject({ seq: 1, message: expect.stringContaining('expired at') });
  expect(agent.lines.filter(({ event }) => event === 'desired-refused')).toMatchObject([{ code: 'ROOT_EXPIRED' }]);
  await agent.stop();
});

test('it does so over HTTP where MQTT does not get through, and says what keeps it from its server', async () => {
  const server = await startTestServer(undefined, () => Date.now() - YEARS_MS);
  const { agent, status } = await watched(server, { mqttUrl: 'mqtt://127.0.0.1:1', pollMs: 300 });
  const one = await server.publishRelease('1.0.0', APPS.good);
  server.desire(one.instruction, { expires: Date.now() + YEARS_MS });
  await until('the server is told', () => server.state.refusals.at(-1) === 'ROOT_EXPIRED');
  await until('its status says what is wrong', async () => (await status()).trouble?.kind === 'mqtt');
  expect(await status()).toMatchObject({ connected: false, refusal: { code: 'ROOT_EXPIRED' } });
  await agent.stop();
});

test('a device that cannot get its trust root is connected and says why it does nothing, until that is over', async () => {
  const server = await startTestServer();
  server.state.answerMetadata = false;
  const { agent, status, told } = await watched(server);
  const one = await server.publishRelease('1.0.0', APPS.good);
  server.desire(one.instruction);
  await until('the server is told', () => told() === 'FETCH_FAILED');
  server.state.answerMetadata = true;
  await until('it is committed', () => server.state.receipts.length === 1);
  await until('it says nothing of the kind any more', () => told() === undefined);
  await until('nor does its status', async () => (await status()).refusal === null);
  expect(agent.lines.filter(({ event }) => event === 'desired-refused')).toMatchObject([{ code: 'FETCH_FAILED' }]);
  await agent.stop();
});

test('metadata that cannot be had, and a document that cannot be understood, are told as what they are', async () => {
  const server = await startTestServer();
  const { agent, told } = await watched(server);
  await until('it has reported', () => server.state.reports.length > 0);
  server.push({ leaf: 'no instruction' });
  await until('the unreadable one is told', () => told() === 'INSTRUCTION_FORMAT');
  server.state.answerMetadata = false;
  const one = await server.publishRelease('1.0.0', APPS.good);
  server.desire(one.instruction);
  await until('the missing metadata is told', () => told() === 'TIMESTAMP_UNAVAILABLE');
  server.state.answerMetadata = true;
  await until('it is committed', () => server.state.receipts.length === 1);
  await until('it says nothing of the kind any more', () => told() === undefined);
  expect(agent.lines.filter(({ event }) => event === 'desired-refused').map(({ code }) => code)).toEqual([
    'INSTRUCTION_FORMAT',
    'TIMESTAMP_UNAVAILABLE',
  ]);
  await agent.stop();
});

test('a device that waits to be let in says so in its status', async () => {
  const server = await startTestServer();
  server.state.admit = false;
  const { agent, status } = await watched(server);
  await until('its status says so', async () => (await status()).trouble?.kind === 'enrolment');
  expect((await status()).trouble?.message).toBe('waiting until an operator accepts gw-01');
  server.state.admit = true;
  await until('it is connected', async () => (await status()).connected && (await status()).trouble === null);
  await agent.stop();
});

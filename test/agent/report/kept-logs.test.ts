import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { openKeptLogs } from '#agent/report/kept-logs.ts';
import { keepRecentLines } from '#agent/report/recent-lines.ts';
import { Id } from '#shared/ids.ts';
import { LogPiece } from '#shared/messages.ts';

const BOOT = Id.parse('boot-1');
const ABOUT = { deployment: Id.parse('dep-1') };
const log = pino({ level: 'silent' });

/** A server that can be reached, or not, by both ways. */
const rig = async () => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-logs-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const server = { mqtt: false, acknowledges: true, http: 'down' as 'down' | 'takes' | 'refuses' };
  const overMqtt: LogPiece[] = [];
  const overHttp: LogPiece[] = [];
  const state = { application: 'out of luck\n', agent: 'info: reverted\n' };
  const open = async () => {
    const logs = await openKeptLogs({
      dir: join(dir, 'kept'),
      boot: BOOT,
      last: { application: () => state.application, agent: () => state.agent },
      withoutSecrets: async (text) => text.replaceAll('hunter2-hunter2', '[secret]'),
      link: () => ({
        connected: () => server.mqtt,
        publish: (_channel, message) => {
          if (!server.mqtt) return false;
          const piece = LogPiece.parse(message);
          overMqtt.push(piece);
          if (server.acknowledges) queueMicrotask(() => logs.acknowledged({ boot: BOOT, log: piece.id }));
          return true;
        },
      }),
      http: {
        postOwn: async (_path, body, schema) => {
          if (server.http === 'down') return { ok: false, answered: false, code: 'unavailable', message: 'nobody' };
          if (server.http === 'refuses') return { ok: false, answered: true, code: 'invalid-request', message: 'no' };
          const { pieces } = body as { pieces: LogPiece[] };
          overHttp.push(...pieces);
          return { ok: true, value: schema.parse({ kept: pieces.map(({ id }) => id) }) };
        },
      },
      backoff: { firstMs: 1, maxMs: 20 },
      now: Date.now,
      log,
      ackMs: 30,
    });
    onTestFinished(() => logs.stop());
    return logs;
  };
  const waiting = async (): Promise<string[]> => readdir(join(dir, 'kept'));
  const isSent = () => expect.poll(waiting).toEqual([]);
  return { dir: join(dir, 'kept'), server, overMqtt, overHttp, state, open, waiting, isSent };
};

test('over MQTT while that is connected: a piece is sent until it is acknowledged, and then forgotten', async () => {
  const { server, overMqtt, overHttp, open, isSent } = await rig();
  server.mqtt = true;
  const logs = await open();
  await logs.keep(ABOUT, 'application');
  await isSent();
  expect(overMqtt).toMatchObject([
    { deployment: 'dep-1', source: 'application', part: 1, parts: 1, text: 'out of luck\n' },
  ]);
  expect(overHttp).toEqual([]);
});

test('where MQTT is not connected, or does not answer, over HTTP', async () => {
  for (const mqtt of [false, true]) {
    const { server, overHttp, open, isSent } = await rig();
    Object.assign(server, { mqtt, acknowledges: false, http: 'takes' });
    await (await open()).keep(ABOUT, 'agent');
    await isSent();
    expect(overHttp).toMatchObject([{ source: 'agent', text: 'info: reverted\n' }]);
  }
});

test('what no one takes is kept over restarts, with what was said first', async () => {
  const { server, overHttp, state, open, waiting, isSent } = await rig();
  const first = await open();
  await first.keep(ABOUT, 'application');
  await first.stop();
  expect(await waiting()).toHaveLength(1);
  state.application = 'the old version started again\n';
  const second = await open();
  await second.keep(ABOUT, 'application');
  await second.keep({ ...ABOUT, attempt: 2 }, 'application');
  server.http = 'takes';
  await isSent();
  // In whatever order: they were written within one tick of the clock of files.
  expect(overHttp.map(({ text }) => text).sort()).toEqual(['out of luck\n', 'the old version started again\n']);
});

test('secrets and control characters stay on the device, on its disk too', async () => {
  const { dir, state, open } = await rig();
  state.application = 'password=hunter2-hunter2 \u001b[31mred\u001b[0m \u0007bell\u0000\ttab\n';
  const logs = await open();
  await logs.keep(ABOUT, 'application');
  const [file] = await readdir(dir);
  expect(await readFile(join(dir, file!), 'utf8')).toContain('password=[secret] red  bell \\ttab\\n');
});

test('a long text is cut into pieces that fit into a message, and only its end is kept', async () => {
  const { server, overHttp, state, open, isSent } = await rig();
  server.http = 'takes';
  state.application = `${'"\\ä'.repeat(50_000)}the end`;
  await (await open()).keep(ABOUT, 'application');
  await isSent();
  // In whatever order they come, and again where an answer is late.
  const pieces = new Map(overHttp.map((piece) => [piece.part, piece]));
  expect([...pieces.keys()].sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  expect(overHttp.every(({ parts }) => parts === 8)).toBe(true);
  expect(pieces.get(8)!.text).toMatch(/the end$/);
  expect(Math.max(...overHttp.map((piece) => Buffer.byteLength(JSON.stringify(piece))))).toBeLessThan(64 * 1024);
});

test('what is too much, damaged, or refused for good goes', async () => {
  const { dir, server, overHttp, open, isSent } = await rig();
  await (await open()).stop();
  await writeFile(join(dir, 'damaged.json'), '{');
  const second = await open();
  await isSent();
  for (let attempt = 1; attempt <= 30; attempt += 1) await second.keep({ ...ABOUT, attempt }, 'agent');
  await expect.poll(async () => (await readdir(dir)).length).toBeLessThanOrEqual(24);
  server.http = 'refuses';
  await isSent();
  expect(overHttp).toEqual([]);
});

test('what was kept before the clock was set, from 1970 to now, is sent all the same', async () => {
  const { dir, server, overHttp, open, isSent } = await rig();
  const first = await open();
  await first.keep(ABOUT, 'application');
  await first.stop();
  const [file] = await readdir(dir);
  await utimes(join(dir, file!), 0, 0);
  server.http = 'takes';
  await open();
  await isSent();
  expect(overHttp).toHaveLength(1);
});

test("the agent's own last lines are words for people, and bounded", () => {
  const recent = keepRecentLines(200);
  const line = (msg: string, more: object = {}) =>
    recent.add(`${JSON.stringify({ time: '2026-01-01T00:00:00.000Z', level: 40, msg, ...more })}\n`);
  line('first'.repeat(40));
  line('second', { err: { message: 'ENOSPC', stack: 'long' } });
  line('third');
  recent.add('not JSON\n');
  expect(recent.last()).toBe(
    '2026-01-01T00:00:00.000Z warn second: ENOSPC\n2026-01-01T00:00:00.000Z warn third\nnot JSON\n',
  );
});

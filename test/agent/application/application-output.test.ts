import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { beforeEach, expect, onTestFinished, test } from 'vitest';
import { type OutputOptions, openApplicationOutput } from '#agent/application/application-output.ts';
import { openSystemJournal } from '#agent/application/system-journal.ts';
import { OutputConfig } from '#agent/config/output-config.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-output-'));
});

type Config = Parameters<(typeof OutputConfig)['parse']>[0];
const open = async (config: Config, more: Partial<OutputOptions> = {}) => {
  const output = await openApplicationOutput({ dir, config: OutputConfig.parse(config), ...more });
  onTestFinished(async () => {
    await output.close();
    await rm(dir, { recursive: true, force: true });
  });
  return output;
};
const fileText = () => readFile(join(dir, 'application.log'), 'utf8').catch(() => '');

test('what is above the limit is left out and said in one line, and the last lines are known all the same', async () => {
  let nowMs = 0;
  const output = await open({ bytesPerSecond: 1_000, burstBytes: 16_000 }, { now: () => nowMs });
  for (let line = 0; line < 100_000; line += 1) output.write(Buffer.from(`line ${String(line).padStart(10)}\n`));
  expect(output.last(40)).toBe('line      99998\nline      99999\n');
  nowMs += 60_000;
  output.write(Buffer.from('calm again\n'));
  await expect.poll(fileText).toContain('calm again');
  const [whole, note, calm] = (await fileText()).split(/\n(?=\[sluice|calm)/);
  expect(whole).toMatch(/^line {10}0\n[^]*line {8}999$/);
  expect(note).toMatch(/^\[sluice [^\]]+\] 1,584,000 bytes left out: more than 1000 a second/);
  expect(calm).toBe('calm again\n');
});

test('what was left out is said when the application says nothing more, and when it ends', async () => {
  const output = await open({ bytesPerSecond: 1_000_000, burstBytes: 4_096 });
  const flood = Buffer.alloc(10_000, 'x');
  output.write(flood);
  output.write(flood);
  await expect.poll(fileText).toContain('x\n[sluice');
  expect(await fileText()).toContain('10,000 bytes left out');
  const slow = await open({ bytesPerSecond: 1, burstBytes: 4_096 });
  slow.write(flood);
  slow.write(flood);
  slow.note('slot a ended');
  await slow.close();
  expect((await fileText()).split('\n').slice(-3)).toEqual([
    expect.stringContaining('10,000 bytes left out'),
    expect.stringMatching(/^\[sluice .*\] slot a ended$/),
    '',
  ]);
});

test('the next life knows the last lines of the one before', async () => {
  const output = await open({});
  for (let line = 0; line < 30_000; line += 1) output.write(Buffer.from(`line ${String(line).padStart(10)}\n`));
  await output.close();
  const next = await open({});
  expect(next.last(20)).toBe('line      29999\n');
});

test('with `none` nothing is written but to memory', async () => {
  const output = await open({ to: 'none' });
  output.write(Buffer.from('one\ntwo\n'));
  output.note('slot a ended');
  expect(output.last(1_000)).toMatch(/^one\ntwo\n\[sluice .*\] slot a ended\n$/);
  await output.close();
  expect(await readdir(dir)).toEqual([]);
});

/** journald's end of its stream: what came over each connection. */
const startJournal = async (socket: string) => {
  const came: string[] = [];
  const sockets = new Set<Socket>();
  const server: Server = createServer({ allowHalfOpen: true }, (stream) => {
    // As the real one does.
    stream.end();
    const index = came.push('') - 1;
    sockets.add(stream);
    stream.setEncoding('utf8').on('data', (text: string) => {
      came[index] += text;
    });
    stream.on('error', () => undefined);
  });
  server.listen(socket);
  await once(server, 'listening');
  const stop = (): void => {
    for (const stream of sockets) stream.destroy();
    server.close();
  };
  onTestFinished(stop);
  return { came, stop };
};
/** Whose lines they are: identifier, unit, priority, level prefix, and where else they go. */
const HEADER = 'sluice-application\n\n6\n1\n0\n0\n0\n';

test('with `journald` lines go to the journal under a name of their own, and no file is written', async () => {
  const socket = join(dir, 'journal');
  const journal = await startJournal(socket);
  const output = await open({ to: 'journald' }, { socket });
  output.write(Buffer.from('first\n<3>an error\n'));
  output.note('slot a ended');
  await output.close();
  await expect.poll(() => journal.came[0]).toMatch(/\nfirst\n<3>an error\n\[sluice .*\] slot a ended\n$/);
  expect(journal.came[0]).toContain(HEADER);
  expect(output.last(100)).toContain('an error');
  expect(await readdir(dir)).toEqual(['journal']);
});

test('a journal that is not there, or is started again, is told once and found again; what was lost is counted', async () => {
  const socket = join(dir, 'journal');
  const warned: string[] = [];
  const log = pino({ level: 'warn' }, { write: (line: string) => void warned.push(line) });
  const sink = openSystemJournal({ socket, againMs: 10, log });
  onTestFinished(() => sink.close());
  await expect.poll(() => warned.length).toBe(1);
  const first = await startJournal(socket);
  await expect.poll(() => first.came.length).toBe(1);
  await expect.poll(() => (sink.write(Buffer.from('heard\n')), first.came[0])).toContain('heard\n');
  first.stop();
  await expect.poll(() => (sink.write(Buffer.from('lost\n')), warned.length)).toBe(2);
  await rm(socket, { force: true });
  const second = await startJournal(socket);
  await expect
    .poll(() => (sink.write(Buffer.from('again\n')), second.came[0] ?? ''))
    .toMatch(/^sluice-application\n\n6\n1\n0\n0\n0\n(\n\[\d+ bytes of output dropped\]\n)?[^]*again\n/);
});

test('a journal that reads nothing holds nothing back, and memory does not grow', async () => {
  const socket = join(dir, 'journal');
  const streams: Socket[] = [];
  const server = createServer((stream) => streams.push(stream.pause().on('error', () => undefined)));
  server.listen(socket);
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  const output = await open({ to: 'journald', bytesPerSecond: 0 }, { socket });
  const bytes = Buffer.alloc(64 * 1024, 'x');
  for (let round = 0; round < 2_000; round += 1) output.write(bytes);
  await expect.poll(() => streams.length).toBe(1);
  let came = 0;
  streams[0]!.on('data', (more) => {
    came += more.length;
  });
  await output.close();
  // Of 131 MB.
  expect(came).toBeLessThan(1024 ** 2);
});

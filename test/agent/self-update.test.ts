import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { APPS, openDevice, startTestServer, type TestServer, until } from './harness.ts';

const root = join(import.meta.dirname, '../..');
let dir: string;
/** The agent that the device came with. */
let installed: string;
let bytes: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-self-'));
  installed = join(dir, 'sluice-agent.mjs');
  const env = { ...process.env, SLUICE_AGENT_FILE: installed };
  const rolldown = join(root, 'node_modules/rolldown/bin/cli.mjs');
  await promisify(execFile)(process.execPath, [rolldown, '-c', 'rolldown.config.ts'], { cwd: root, env });
  bytes = await readFile(installed, 'utf8');
});
afterAll(() => rm(dir, { recursive: true, force: true }));

const HEALTH = { soakMs: 300, deadlineMs: 3_000, intervalMs: 50 };

/** A release that brings its own agent: the application's file, and the agent's. */
const publish = (server: TestServer, version: string, agent: string, app: string = APPS.good) => {
  const artifacts = [
    ['app', 'app.mjs', `// ${version}\n${app}`],
    ['agent', 'sluice-agent.mjs', agent],
  ].map(([name, path, text]) => {
    const file = Buffer.from(text!);
    return {
      name: name!,
      bytes: file.length,
      sha256: server.addObject(file),
      install: { kind: 'file' as const, path: path! },
    };
  });
  return server.publishRelease(version, app, { artifacts, agent: { path: 'sluice-agent.mjs' }, health: HEALTH });
};

/** Starts the launcher again whenever it ends, as systemd does. */
const keepRunning = (configFile: string) => {
  let child: ReturnType<typeof spawn> | undefined;
  const stopping = new AbortController();
  const output: string[] = [];
  const ended = (async () => {
    while (!stopping.signal.aborted) {
      child = spawn(process.execPath, [installed, '--launch', '--config', configFile], {
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      for (const stream of [child.stdout!, child.stderr!])
        stream.on('data', (piece: Buffer) => output.push(piece.toString()));
      await once(child, 'close');
    }
  })();
  onTestFinished(async () => {
    stopping.abort();
    child?.kill('SIGKILL');
    await ended;
  });
  return {
    kill: () => child?.kill('SIGKILL'),
    pid: () => child?.pid,
    lines: () => output.join(''),
    starts: () => output.join('').split('"agent-started"').length - 1,
    stop: async () => {
      stopping.abort();
      child?.kill('SIGTERM');
      await ended;
    },
  };
};

/** Which file a process runs, by the kernel's word. */
const programOf = async (pid: number | undefined): Promise<string> =>
  (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0').find((word) => word.endsWith('.mjs')) ??
  '';

const settled = async () => {
  const server = await startTestServer();
  const device = await openDevice(server);
  const agent = keepRunning(device.configFile);
  const first = await publish(server, '1.0.0', `${bytes}// 1.0.0\n`);
  server.desire(first.instruction);
  const outcome = async (version: string, deadlineMs = 40_000) => {
    const find = () => server.state.receipts.find((receipt) => receipt.version === version);
    await until(`${version} is reported`, find, deadlineMs, () => agent.lines().slice(-4_000));
    return find()!;
  };
  return { server, device, agent, outcome };
};
const digest = (text: string): string => createHash('sha256').update(text).digest('hex');

test('a release brings its agent along: it starts in place of the old one, commits itself, and stays', async () => {
  const { server, device, agent, outcome } = await settled();
  expect(await outcome('1.0.0')).toMatchObject({ outcome: 'committed', running: { slot: 'a' } });
  const slot = (name: string): string => join(device.dataDir, 'slots', name, 'sluice-agent.mjs');
  expect(await programOf(agent.pid())).toBe(slot('a'));
  expect(digest(await readFile(slot('a'), 'utf8'))).toBe(digest(`${bytes}// 1.0.0\n`));

  server.desire((await publish(server, '1.1.0', `${bytes}// 1.1.0\n`)).instruction);
  expect(await outcome('1.1.0')).toMatchObject({ outcome: 'committed', running: { slot: 'b' } });
  expect(await programOf(agent.pid())).toBe(slot('b'));

  // The same agent again: it need not be started anew.
  const pid = agent.pid();
  server.desire((await publish(server, '1.2.0', `${bytes}// 1.1.0\n`)).instruction);
  expect(await outcome('1.2.0')).toMatchObject({ outcome: 'committed', running: { slot: 'a' } });
  expect(agent.pid()).toBe(pid);
  // Killed, the agent of what is committed comes back.
  agent.kill();
  await until('it comes back', async () => agent.pid() !== pid && (await programOf(agent.pid())) === slot('a'));
  await agent.stop();
});

test.for([
  ['crashes at once', 'process.exit(1);'],
  ['is no program at all', 'this is not JavaScript'],
  ['hangs, and says nothing', 'setInterval(() => undefined, 1000);'],
] as const)('an agent that %s is given up, and the old one reports that it went back', async ([, bad]) => {
  const { server, device, agent, outcome } = await settled();
  await outcome('1.0.0');
  server.desire((await publish(server, '1.1.0', bad)).instruction);
  expect(await outcome('1.1.0')).toMatchObject({ outcome: 'reverted', running: { version: '1.0.0', slot: 'a' } });
  expect(await programOf(agent.pid())).toBe(join(device.dataDir, 'slots', 'a', 'sluice-agent.mjs'));
  await agent.stop();
});

test('an agent that can not reach its server goes back by itself, and the next one is let in', async () => {
  const { server, agent, outcome } = await settled();
  await outcome('1.0.0');
  const deaf = bytes.replace(/^(#!.*\n)?/, "$1process.env.SLUICE_AGENT_SERVER_URL = 'http://127.0.0.1:9';\n");
  server.desire((await publish(server, '1.1.0', deaf)).instruction);
  expect(await outcome('1.1.0')).toMatchObject({ outcome: 'reverted', running: { version: '1.0.0' } });
  server.desire((await publish(server, '1.2.0', `${bytes}// 1.2.0\n`)).instruction);
  expect(await outcome('1.2.0')).toMatchObject({ outcome: 'committed', running: { slot: 'b' } });
  await agent.stop();
});

test('killed again and again while it changes over, the device ends with one agent, and one receipt', async () => {
  const { server, agent, outcome } = await settled();
  await outcome('1.0.0');
  server.desire((await publish(server, '1.1.0', `${bytes}// 1.1.0\n`)).instruction);
  // Whenever a new process has shown itself, up to the trial's own limit.
  for (let kills = 0; kills < 2; kills += 1) {
    const starts = agent.starts();
    await until('an agent starts', () => agent.starts() > starts || server.state.receipts.length > 1);
    agent.kill();
  }
  const { outcome: word } = await outcome('1.1.0');
  expect(['committed', 'reverted']).toContain(word);
  expect(server.state.receipts.filter(({ version }) => version === '1.1.0')).toHaveLength(1);
  await agent.stop();
});

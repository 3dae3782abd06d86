import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, open, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { processesWithEnvironment } from '#agent/process/process-table.ts';
import { ALL_SWEEPS } from '#test/sweep.ts';
import { APPS, openDevice, startTestServer, type TestServer, until } from '../harness.ts';
import { keepRunning } from '../kept-running.ts';
import { canMount, smallDisk } from '../small-disk.ts';

const root = join(import.meta.dirname, '../../..');
let dir: string;
/** The agent that the device came with. */
let installed: string;
let bytes: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-self-'));
  installed = join(dir, 'sluice-agent.cjs');
  const env = { ...process.env, SLUICE_AGENT_FILE: installed };
  const rolldown = join(root, 'node_modules/rolldown/bin/cli.mjs');
  await promisify(execFile)(process.execPath, [rolldown, '-c', 'rolldown.config.ts'], { cwd: root, env });
  bytes = await readFile(installed, 'utf8');
});
afterAll(() => rm(dir, { recursive: true, force: true }));

const HEALTH = { soakMs: 300, deadlineMs: 120_000, intervalMs: 50 };
/** For agents that must not come through: however slow the machine is, too little is right. */
const SOON = { ...HEALTH, deadlineMs: 3_000 };
/** Starting agents takes as long as it takes. */
const WAIT_MS_MAX = 240_000;
vi.setConfig({ testTimeout: 3 * WAIT_MS_MAX });

/** A release that brings its own agent: the application's file, and the agent's. */
const publish = (server: TestServer, version: string, agent: string, more: object = {}) => {
  const artifacts = [
    ['app', 'app.mjs', `// ${version}\n${APPS.good}`],
    ['agent', 'sluice-agent.cjs', agent],
  ].map(([name, path, text]) => {
    const file = Buffer.from(text!);
    return {
      name: name!,
      bytes: file.length,
      sha256: server.addObject(file),
      install: { kind: 'file' as const, path: path! },
    };
  });
  const what = { artifacts, agent: { path: 'sluice-agent.cjs' }, health: HEALTH, ...more };
  return server.publishRelease(version, APPS.good, what);
};

/** Which file a process runs, as the kernel knows it. */
const programOf = async (pid: number | undefined): Promise<string> =>
  (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0').find((word) => word.endsWith('.cjs')) ??
  '';

const settled = async (settings: { dataDir?: string } = {}) => {
  const server = await startTestServer();
  const device = await openDevice(server, settings);
  const agent = keepRunning([process.execPath, installed, '--launch', '--config', device.configFile]);
  const first = await publish(server, '1.0.0', `${bytes}// 1.0.0\n`);
  server.desire(first.instruction);
  const outcome = async (version: string) => {
    const find = () => server.state.receipts.find((receipt) => receipt.version === version);
    await until(`${version} is reported`, find, WAIT_MS_MAX, () => agent.lines().slice(-4_000));
    return find()!;
  };
  return { server, device: { ...device, dataDir: settings.dataDir ?? device.dataDir }, agent, outcome };
};
const digest = (text: string): string => createHash('sha256').update(text).digest('hex');

test('a release brings its agent along: it starts in place of the old one, commits itself, and stays', async () => {
  const { server, device, agent, outcome } = await settled();
  expect(await outcome('1.0.0')).toMatchObject({ outcome: 'committed', running: { slot: 'a' } });
  const slot = (name: string): string => join(device.dataDir, 'slots', name, 'sluice-agent.cjs');
  expect(await programOf(agent.pid())).toBe(slot('a'));
  expect(digest(await readFile(slot('a'), 'utf8'))).toBe(digest(`${bytes}// 1.0.0\n`));

  server.desire((await publish(server, '1.1.0', `${bytes}// 1.1.0\n`)).instruction);
  expect(await outcome('1.1.0')).toMatchObject({ outcome: 'committed', running: { slot: 'b' } });
  expect(await programOf(agent.pid())).toBe(slot('b'));

  // The same agent again: it need not be started again.
  const pid = agent.pid();
  server.desire((await publish(server, '1.2.0', `${bytes}// 1.1.0\n`)).instruction);
  expect(await outcome('1.2.0')).toMatchObject({ outcome: 'committed', running: { slot: 'a' } });
  expect(agent.pid()).toBe(pid);
  // Killed, the agent of what is committed comes back.
  agent.kill();
  const isBack = async () => agent.pid() !== pid && (await programOf(agent.pid())) === slot('a');
  await until('it comes back', isBack, WAIT_MS_MAX);
  await agent.stop();
});

test.for([
  ['crashes at once', 'process.exit(1);'],
  ['is no program at all', 'this is not JavaScript'],
  ['hangs, and says nothing', 'setInterval(() => undefined, 1000);'],
] as const)('an agent that %s is given up, and the old one reports that it went back', async ([, bad]) => {
  const { server, device, agent, outcome } = await settled();
  await outcome('1.0.0');
  server.desire((await publish(server, '1.1.0', bad, { health: SOON })).instruction);
  expect(await outcome('1.1.0')).toMatchObject({ outcome: 'reverted', running: { version: '1.0.0', slot: 'a' } });
  expect(await programOf(agent.pid())).toBe(join(device.dataDir, 'slots', 'a', 'sluice-agent.cjs'));
  await agent.stop();
});

test('a release that names an agent which it does not hold is refused while the old version runs', async () => {
  const { server, agent, outcome } = await settled();
  await outcome('1.0.0');
  const pid = agent.pid();
  server.desire((await publish(server, '1.1.0', bytes, { agent: { path: 'elsewhere.cjs' } })).instruction);
  expect(await outcome('1.1.0')).toMatchObject({
    outcome: 'failed',
    error: {
      code: 'PRECONDITION',
      message: expect.stringContaining('elsewhere.cjs as its agent: there is no such file'),
    },
  });
  expect(agent.pid()).toBe(pid);
  await agent.stop();
});

test.runIf(ALL_SWEEPS)(
  'an agent that cannot reach its server goes back by itself, and the next one is let in',
  async () => {
    const { server, agent, outcome } = await settled();
    await outcome('1.0.0');
    const deaf = bytes.replace(/^(#!.*\n)?/, "$1process.env.SLUICE_AGENT_SERVER_URL = 'http://127.0.0.1:9';\n");
    server.desire((await publish(server, '1.1.0', deaf, { health: SOON })).instruction);
    expect(await outcome('1.1.0')).toMatchObject({ outcome: 'reverted', running: { version: '1.0.0' } });
    server.desire((await publish(server, '1.2.0', `${bytes}// 1.2.0\n`)).instruction);
    expect(await outcome('1.2.0')).toMatchObject({ outcome: 'committed', running: { slot: 'b' } });
    await agent.stop();
  },
);

test.runIf(ALL_SWEEPS)(
  'killed again and again while it changes over, the device ends with one agent, and one receipt',
  async () => {
    const { server, agent, outcome } = await settled();
    await outcome('1.0.0');
    server.desire((await publish(server, '1.1.0', `${bytes}// 1.1.0\n`)).instruction);
    // Whenever a new process has shown itself, up to the trial's own limit.
    for (let kills = 0; kills < 2; kills += 1) {
      const starts = agent.starts();
      const isThere = () => agent.starts() > starts || server.state.receipts.length > 1;
      await until('an agent starts', isThere, WAIT_MS_MAX);
      agent.kill();
    }
    const { outcome: word } = await outcome('1.1.0');
    expect(['committed', 'reverted']).toContain(word);
    expect(server.state.receipts.filter(({ version }) => version === '1.1.0')).toHaveLength(1);
    await agent.stop();
  },
);

test.runIf(ALL_SWEEPS)(
  'an agent that was committed and crashes a while after each start gives way to the installed one, and the application runs',
  async () => {
    const { server, device, agent, outcome } = await settled();
    await outcome('1.0.0');
    const flag = join(dir, 'crash-late');
    const late = `${bytes}\nsetInterval(() => { if (require('node:fs').existsSync(${JSON.stringify(flag)})) setTimeout(() => process.exit(1), 300); }, 100).unref();\n`;
    server.desire((await publish(server, '1.1.0', late)).instruction);
    expect(await outcome('1.1.0')).toMatchObject({ outcome: 'committed' });
    const slot = join(device.dataDir, 'slots', 'b', 'sluice-agent.cjs');
    expect(await programOf(agent.pid())).toBe(slot);
    const starts = agent.starts();
    await writeFile(flag, '');
    const gaveWay = async () =>
      (await programOf(agent.pid())) === installed && agent.lines().includes('agent-gave-way');
    await until('it gives way', gaveWay, WAIT_MS_MAX, () => agent.lines().slice(-4_000));
    expect(agent.starts() - starts).toBeLessThanOrEqual(7);
    const pid = agent.pid();
    const runs = async () =>
      (await readFile(join(device.dataDir, 'status.json'), 'utf8')).includes('"version":"1.1.0"');
    await until('the application of the version runs', runs, WAIT_MS_MAX);
    expect(agent.pid()).toBe(pid);
    await agent.stop();
  },
);

test.skipIf(!canMount())(
  'killed on trial while the disk is full, and stays so: the old version runs, nothing starts in turns, and it goes back once there is room',
  async () => {
    const disk = await smallDisk(64 * 1024 * 1024);
    const { server, device, agent, outcome } = await settled({ dataDir: join(disk, 'data') });
    await outcome('1.0.0');
    const slot = (name: string): string => join(device.dataDir, 'slots', name, 'sluice-agent.cjs');
    // It stays on trial for longer than this test takes.
    const endless = { ...HEALTH, soakMs: 3_600_000, deadlineMs: 7_200_000 };
    server.desire((await publish(server, '1.1.0', `${bytes}// 1.1.0\n`, { health: endless })).instruction);
    await until(
      'the agent of 1.1.0 is on trial',
      async () => (await programOf(agent.pid())) === slot('b'),
      WAIT_MS_MAX,
    );
    await until('its application runs', () => runsFrom(device.dataDir, 'b'), WAIT_MS_MAX);

    const full = await fill(disk);
    const starts = agent.starts();
    agent.kill();
    const isBack = async () =>
      agent.lines().includes('agent-fell-back') &&
      (await programOf(agent.pid())) === slot('a') &&
      (await runsFrom(device.dataDir, 'a'));
    await until('the old agent and its application run', isBack, WAIT_MS_MAX, () => agent.lines().slice(-4_000));
    const pid = agent.pid();
    await full.end();
    expect(await outcome('1.1.0')).toMatchObject({ outcome: 'reverted', running: { version: '1.0.0', slot: 'a' } });
    expect(agent.starts() - starts).toBeLessThanOrEqual(2);
    expect(agent.pid()).toBe(pid);
    await agent.stop();
  },
);

/** Whether what the agent's supervisor has started runs in this slot. */
const runsFrom = async (dataDir: string, slot: string): Promise<boolean> => {
  const found = await processesWithEnvironment('SLUICE_SUPERVISOR', join(dataDir, 'supervisor'));
  const folders = await Promise.all(found.map(({ pid }) => readlink(`/proc/${pid}/cwd`).catch(() => '')));
  return folders.includes(join(dataDir, 'slots', slot));
};

/** Fills the disk to the last byte, and again whenever something is given back, until it ends. */
const fill = async (disk: string) => {
  const file = await open(join(disk, 'filler'), 'a');
  const piece = Buffer.alloc(256 * 1024);
  const more = async (): Promise<void> => {
    for (let bytes = piece.length; bytes >= 1; ) {
      const written = await file.write(piece, 0, bytes).catch(() => undefined);
      if (written === undefined) bytes = Math.floor(bytes / 2);
    }
  };
  await more();
  const ended = new AbortController();
  const filling = (async () => {
    while (!ended.signal.aborted) {
      await more();
      await pause(5);
    }
  })();
  return {
    end: async (): Promise<void> => {
      ended.abort();
      await filling;
      await file.close();
      await rm(join(disk, 'filler'));
    },
  };
};

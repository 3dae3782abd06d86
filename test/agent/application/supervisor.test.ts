import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, realpath, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { performCheck } from '#agent/application/checks.ts';
import {
  type Application,
  type ApplicationExit,
  openSupervisor,
  type SupervisorOptions,
} from '#agent/application/supervisor.ts';
import { lookUpProcess, processesWithEnvironment } from '#agent/process/process-table.ts';
import { machineBootId } from '#shared/machine-uptime.ts';
import { HealthCheck } from '#shared/manifest.ts';

const apps = join(import.meta.dirname, '../apps');
const until = (check: () => unknown): Promise<unknown> =>
  vi.waitFor(async () => expect(await check()).toBeTruthy(), { timeout: 60_000, interval: 20 });

const folder = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-supervisor-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
};

const supervise = async (more: Partial<SupervisorOptions> = {}) => {
  const dir = more.dir ?? (await folder());
  const supervisor = await openSupervisor({ dir, stopMs: 20_000, backoffMs: { first: 10, max: 60_000 }, ...more });
  onTestFinished(() => supervisor.stop());
  const exits: ApplicationExit[] = [];
  supervisor.listen((exit) => exits.push(exit));
  return { dir, supervisor, exits };
};

const application = (script: string, more: Partial<Application> = {}): Application => ({
  slot: 'a',
  command: ['node', join(apps, script)],
  folder: apps,
  environment: {},
  onExit: 'report',
  ...more,
});
const alive = async (pid: number): Promise<boolean> => (await lookUpProcess(pid))?.zombie === false;

const leftOf = async (dir: string): Promise<object[]> =>
  processesWithEnvironment('SLUICE_SUPERVISOR', await realpath(dir));

test('an application runs in its slot, on the Node of the agent, and sees its own environment and not the one of the agent', async () => {
  vi.stubEnv('SECRET_OF_THE_AGENT', 'x');
  onTestFinished(() => void vi.unstubAllEnvs());
  const { supervisor } = await supervise({ port: 4711 });
  const show = 'console.log(JSON.stringify([process.cwd(), process.version, process.env]))';
  await supervisor.start(application('', { command: ['node', '-e', show], environment: { COLOUR: 'blue' } }));
  await until(async () => (await supervisor.lastOutput(10_000)).includes(']\n'));
  const line = (await supervisor.lastOutput(10_000)).split('\n').find((line) => line.startsWith('["'));
  const [cwd, version, environment]: string[] = JSON.parse(line!);
  expect(cwd).toBe(await realpath(apps));
  expect(version).toBe(process.version);
  expect(environment).toMatchObject({ PORT: '4711', COLOUR: 'blue' });
  expect(environment).not.toHaveProperty('SECRET_OF_THE_AGENT');
});

test('stopping ends the application by SIGTERM and leaves neither process nor pid file', async () => {
  const { dir, supervisor, exits } = await supervise({ port: 0 });
  await supervisor.start(application('serve.mjs'));
  await until(async () => (await supervisor.lastOutput(1_000)).includes('ready'));
  const running = supervisor.running();
  expect(running).toMatchObject({ slot: 'a' });
  expect(await alive(running!.pid)).toBe(true);
  await supervisor.stop();
  expect(supervisor.running()).toBeNull();
  expect(await alive(running!.pid)).toBe(false);
  expect(await supervisor.lastOutput(1_000)).toContain('ending');
  expect(await readdir(dir)).toEqual(['application.log']);
  expect(exits).toEqual([]);
});

test('a clock that is set, by hours or years, either way, changes nothing about how long the application has run', async () => {
  const { supervisor, exits } = await supervise({ port: 0 });
  await supervisor.start(application('serve.mjs'));
  await until(() => (supervisor.running()?.ranMs ?? 0) >= 20);
  const look = async (upMs: number) =>
    performCheck(
      HealthCheck.parse({ kind: 'process', upMs }),
      { folder: '/', process: supervisor },
      new AbortController().signal,
    );
  onTestFinished(() => void vi.useRealTimers());
  for (const setBy of [-31_536_000_000, -3_600_000, 3_600_000, 31_536_000_000]) {
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + setBy });
    expect([setBy, (await look(20)).ok, (await look(3_000_000)).ok]).toEqual([setBy, true, false]);
    vi.useRealTimers();
  }
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() - 3_600_000 });
  process.kill(supervisor.running()!.pid, 'SIGKILL');
  await until(() => exits.length === 1);
  expect(exits[0]!.ranMs).toBeGreaterThanOrEqual(20);
  expect(exits[0]!.ranMs).toBeLessThan(3_000_000);
});

test('what ignores SIGTERM, or has left the process group, is killed', async () => {
  const { dir, supervisor } = await supervise({ stopMs: 100 });
  await supervisor.start(application('stubborn.mjs'));
  await until(async () => (await supervisor.lastOutput(1_000)).includes('child'));
  await until(async () => (await leftOf(dir)).length === 2);
  await supervisor.stop();
  expect(await leftOf(dir)).toEqual([]);
});

test('on trial an exit is told and nothing starts again by itself', async () => {
  const { supervisor, exits } = await supervise();
  await supervisor.start(application('crash.mjs'));
  await until(() => exits.length === 1);
  expect(exits[0]).toMatchObject({ slot: 'a', code: 3, signal: null, restartInMs: null });
  expect(supervisor.running()).toBeNull();
  expect(await supervisor.lastOutput(1_000)).toMatch(/about to crash\n/);
});

test('after a commit an exit starts it again, each time after a longer wait', async () => {
  const { supervisor, exits } = await supervise();
  await supervisor.start(application('crash.mjs', { onExit: 'restart' }));
  await until(() => exits.length >= 4);
  expect(exits.slice(0, 4).map((exit) => exit.restartInMs)).toEqual([10, 20, 40, 80]);
});

test('a commit makes a running trial one that is kept running', async () => {
  const { supervisor, exits } = await supervise();
  await supervisor.start(application('serve.mjs'));
  const first = supervisor.running()!.pid;
  supervisor.keepRunning();
  process.kill(-first, 'SIGKILL');
  await until(() => supervisor.running() !== null && supervisor.running()!.pid !== first);
  expect(exits).toMatchObject([{ signal: 'SIGKILL', restartInMs: 10 }]);
});

test('starting another application ends the first one before', async () => {
  const { supervisor, exits } = await supervise();
  await supervisor.start(application('serve.mjs', { slot: 'a' }));
  const first = supervisor.running()!.pid;
  await supervisor.start(application('serve.mjs', { slot: 'b' }));
  expect(await alive(first)).toBe(false);
  expect(supervisor.running()?.slot).toBe('b');
  expect(exits).toEqual([]);
});

test('a command that does not exist exits with 127; a folder that does not exist is a refusal', async () => {
  const { supervisor, exits } = await supervise();
  expect(await supervisor.start(application('', { command: ['no-such-command'] }))).toEqual({ ok: true });
  await until(() => exits.length === 1);
  expect(exits[0]?.code).toBe(127);
  const refused = await supervisor.start(application('serve.mjs', { folder: join(apps, 'nowhere') }));
  expect(refused).toMatchObject({ ok: false });
  expect(supervisor.running()).toBeNull();
});

test('output is kept in two files of bounded size, and the end of it can be read', async () => {
  const { dir, supervisor, exits } = await supervise({ logBytesMax: 10_000 });
  const print = 'for (let i = 0; i < 5000; i += 1) console.log("line " + i)';
  await supervisor.start(application('', { command: ['node', '-e', print] }));
  await until(() => exits.length === 1);
  await until(async () => (await supervisor.lastOutput(1_000)).includes('line 4999\n'));
  const end = await supervisor.lastOutput(200);
  expect(Buffer.byteLength(end)).toBeLessThanOrEqual(200);
  expect(end).toMatch(/^(line \d+|\[sluice.*)\n/);
  // What is queued is written by then.
  await supervisor.stop();
  for (const file of ['application.log', 'application.log.1']) {
    expect((await stat(join(dir, file))).size).toBeLessThanOrEqual(10_000);
  }
});

test("18: disk full, download, journal, log: fails clean; a log that can't be written is not fatal (an application goes on when its output cannot be written)", async () => {
  const dir = await folder();
  await symlink('/dev/full', join(dir, 'application.log'));
  const { supervisor } = await supervise({ dir });
  await supervisor.start(
    application('', { command: ['node', '-e', 'setInterval(() => console.log("x".repeat(9999)), 1)'] }),
  );
  const { pid } = supervisor.running()!;
  await until(async () => Number((await readFile(`/proc/${pid}/io`, 'utf8')).match(/wchar: (\d+)/)?.[1]) > 1_000_000);
  expect(supervisor.running()?.pid).toBe(pid);
});

/** An agent that starts the script and is then killed; resolves with the pid of the application, which lives on. */
const killedAgent = async (dir: string, script: string): Promise<number> => {
  const source = `
    const { openSupervisor } = await import('#agent/application/supervisor.ts');
    const supervisor = await openSupervisor({ dir: process.argv[1] });
    await supervisor.start({ slot: 'a', command: ['node', process.argv[2]], folder: '/', environment: {}, onExit: 'report' });
    console.log(supervisor.running().pid);
    setInterval(() => undefined, 1_000);`;
  const agent = spawn(process.execPath, ['--input-type=module', '-e', source, dir, join(apps, script)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = await once(agent.stdout, 'data');
  const pid = Number(String(line));
  await until(async () => (await readFile(join(dir, 'application.log'), 'utf8').catch(() => '')).includes('child'));
  agent.kill('SIGKILL');
  await once(agent, 'exit');
  return pid;
};

test('what a killed agent has left running is killed by the next, whatever group it is in', async () => {
  const dir = await folder();
  const pid = await killedAgent(dir, 'stubborn.mjs');
  expect(await alive(pid)).toBe(true);
  expect(await leftOf(dir)).toHaveLength(2);
  const { supervisor } = await supervise({ dir, stopMs: 100 });
  expect(await alive(pid)).toBe(false);
  expect(await leftOf(dir)).toEqual([]);
  expect(supervisor.running()).toBeNull();
});

test('a pid file that names a process of someone else kills no one', async () => {
  const dir = await folder();
  const stranger = spawn('sleep', ['60'], { detached: true });
  onTestFinished(() => void stranger.kill('SIGKILL'));
  const record = { pid: stranger.pid, startTicks: '1', machineBoot: await machineBootId() };
  await writeFile(join(dir, 'application.json'), JSON.stringify(record));
  await supervise({ dir });
  expect(await alive(stranger.pid!)).toBe(true);
});

/** A worker that has something to write when it is asked to end, and says what it did; `$1`: where. */
const WORKER = `const { appendFileSync } = require('node:fs');
const file = process.argv[1];
process.on('SIGTERM', () => {
  appendFileSync(file, 'asked ');
  setTimeout(() => { appendFileSync(file, 'flushed '); process.exit(0); }, 200);
});
appendFileSync(file, 'runs ');
setInterval(() => undefined, 1_000);`;

const wrapped = async (script: (worker: string) => string, more: Partial<SupervisorOptions> = {}) => {
  const opened = await supervise(more);
  const file = join(opened.dir, 'worker-says');
  const said = () => readFile(file, 'utf8').catch(() => '');
  const worker = `'${process.execPath}' -e "$WORKER" '${file}'`;
  const command = ['sh', '-c', script(worker)];
  await opened.supervisor.start(application('', { command, environment: { WORKER } }));
  await until(async () => (await said()).includes('runs'));
  return { ...opened, said };
};

test('a shell that started the application without exec ends at once: the application has its time to end all the same', async () => {
  const { supervisor, said, dir } = await wrapped((worker) => `${worker}; echo never`);
  await supervisor.stop();
  expect(await said()).toBe('runs asked flushed ');
  expect(await leftOf(dir)).toEqual([]);
});

test('what has left the group is asked to end too, and has the same time', async () => {
  const { supervisor, said } = await wrapped((worker) => `setsid ${worker} & wait`);
  await supervisor.stop();
  expect(await said()).toBe('runs asked flushed ');
});

test('an application that ends by itself leaves a worker: it is asked to end before another starts', async () => {
  const { supervisor, exits, said } = await wrapped((worker) => `${worker} & wait`);
  process.kill(supervisor.running()!.pid, 'SIGKILL');
  await until(() => exits.length === 1);
  await supervisor.start(application('serve.mjs'));
  expect(await said()).toBe('runs asked flushed ');
});

test('a shell that ignores SIGTERM is killed once its time is over, the worker has ended by then', async () => {
  const { supervisor, said, dir } = await wrapped((worker) => `trap '' TERM; ${worker}; while :; do sleep 1; done`, {
    stopMs: 1_500,
  });
  await supervisor.stop();
  expect(await said()).toMatch(/^runs/);
  expect(await leftOf(dir)).toEqual([]);
});

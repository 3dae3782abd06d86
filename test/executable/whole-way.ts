import { execFile } from 'node:child_process';
import { mkdtemp, readFile, readlink, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { AGENT_VERSION } from '#agent/config/version.ts';
import { NODE_FLAGS } from '#agent/process/node-flags.ts';
import { APPS, openDevice, startTestServer, type TestServer, until } from '../agent/harness.ts';
import { keepRunning } from '../agent/kept-running.ts';

const run = promisify(execFile);
const WAIT_MS_MAX = 240_000;
const HEALTH = { soakMs: 300, deadlineMs: 120_000, intervalMs: 50 };
let dir: string;
let program: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-executable-'));
  program = join(dir, 'sluice-agent');
  const { stdout } = await run(process.execPath, ['agent/launch/build.ts', '--executable', '--out', dir]);
  process.stdout.write(stdout);
});
afterAll(() => rm(dir, { recursive: true, force: true }));

/** A release whose agent is this file. */
const publish = (server: TestServer, version: string, path: string, agent: Buffer) => {
  const app = Buffer.from(`// ${version}\n${APPS.good}`);
  const file = (name: string, at: string, bytes: Buffer, executable: boolean) => ({
    name,
    bytes: bytes.length,
    sha256: server.addObject(bytes),
    install: { kind: 'file' as const, path: at, executable },
  });
  const artifacts = [file('app', 'app.mjs', app, false), file('agent', path, agent, path === 'sluice-agent')];
  return server.publishRelease(version, APPS.good, { artifacts, agent: { path }, health: HEALTH });
};

test('it needs no Node: it says its version, and whether this device is fit', async () => {
  const alone = { cwd: dir, env: {} };
  expect(await run(program, ['--version'], alone)).toEqual({ stdout: `${AGENT_VERSION}\n`, stderr: '' });
  const server = await startTestServer();
  const { configFile } = await openDevice(server);
  const { stdout } = await run(program, ['check', '--json', '--config', configFile], alone);
  expect(JSON.parse(stdout)).toMatchObject({ fit: true });
  // Its flags are in it, and nothing outside of it adds others.
  const unit = await run(program, ['unit', '--config', configFile], { cwd: dir, env: { NODE_OPTIONS: '--inspect' } });
  expect(unit.stdout).toContain(`ExecStart=${program} --launch --config ${configFile}`);
  for (const flag of NODE_FLAGS) expect(unit.stdout).not.toContain(flag);
});

test('it enrols, installs a release, and becomes the executable that a release brings; a script it refuses', async () => {
  const server = await startTestServer();
  const device = await openDevice(server);
  const agent = keepRunning([program, '--launch', '--config', device.configFile]);
  const outcome = async (version: string) => {
    const find = () => server.state.receipts.find((receipt) => receipt.version === version);
    await until(`${version} is reported`, find, WAIT_MS_MAX, () => agent.lines().slice(-4_000));
    return find()!;
  };
  const running = () => readlink(`/proc/${agent.pid()}/exe`);

  server.desire((await server.publishRelease('1.0.0', APPS.good, { health: HEALTH })).instruction);
  expect(await outcome('1.0.0')).toMatchObject({ outcome: 'committed', running: { slot: 'a' } });
  expect(await running()).toBe(program);

  const script = await publish(server, '1.1.0', 'sluice-agent.cjs', Buffer.from('process.exit(0);'));
  server.desire(script.instruction);
  expect(await outcome('1.1.0')).toMatchObject({ outcome: 'failed', error: { code: 'PRECONDITION' } });

  // What follows the note in the file is no one's.
  const next = Buffer.concat([await readFile(program), Buffer.from('1.2.0')]);
  server.desire((await publish(server, '1.2.0', 'sluice-agent', next)).instruction);
  expect(await outcome('1.2.0')).toMatchObject({ outcome: 'committed', running: { slot: 'b' } });
  expect(await running()).toBe(join(device.dataDir, 'slots', 'b', 'sluice-agent'));
  await agent.stop();
});

import { execFile } from 'node:child_process';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { AGENT_SETTINGS, agentFlagName } from '#agent/config/config.ts';

const run = promisify(execFile);
const root = join(import.meta.dirname, '../..');
const rolldown = join(root, 'node_modules/rolldown/bin/cli.mjs');
let dir: string;
let file: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-build-'));
  file = join(dir, 'sluice-agent.cjs');
  const env = { ...process.env, SLUICE_AGENT_FILE: file };
  await run(process.execPath, [rolldown, '-c', 'rolldown.config.ts'], { cwd: root, env });
});
afterAll(() => rm(dir, { recursive: true, force: true }));

/** Away from the project: there is no node_modules to be found. */
const agent = (...args: string[]) => run(process.execPath, [file, ...args], { cwd: dir, env: {} });

test('the agent is one file that needs nothing beside it', async () => {
  const { stdout } = await agent('--help');
  for (const setting of AGENT_SETTINGS) expect(stdout).toContain(`--${agentFlagName(setting)}`);
  expect((await stat(file)).size).toBeLessThan(2 * 1024 * 1024);
});

test('a wrong command line is refused with its reason', async () => {
  await expect(agent('--nonsense')).rejects.toMatchObject({ code: 2, stderr: expect.stringContaining('--nonsense') });
});

test('it says whether this device is fit, for people and for scripts', async () => {
  const asked = [
    '--check',
    '--server-url',
    'http://127.0.0.1:1',
    '--device',
    'gw-01',
    '--compatible',
    'gw',
    '--data-dir',
    dir,
  ];
  await expect(agent(...asked)).rejects.toMatchObject({ code: 1, stdout: expect.stringContaining('gw-01 is NOT fit') });
  const { stdout } = await agent(...asked, '--json').catch((error: { stdout: string }) => error);
  expect(JSON.parse(stdout)).toMatchObject({ device: 'gw-01', fit: false });
});

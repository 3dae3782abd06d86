import { execFile } from 'node:child_process';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import { AgentConfig } from '#agent/config/config.ts';
import { openServiceManager } from '#agent/local/service-manager.ts';
import { unitText } from '#agent/local/systemd-unit.ts';
import { APPS, openDevice, startTestServer, until } from '../harness.ts';

const run = promisify(execFile);
const isThere = (command: string): Promise<boolean> =>
  run('sh', ['-c', `command -v ${command}`]).then(
    () => true,
    () => false,
  );

/** In the place of systemd's: notes down what it is told to send, and to whom. */
const noteWords = async () => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-notify-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true, maxRetries: 5 }));
  const [tool, file] = [join(dir, 'systemd-notify'), join(dir, 'words')];
  await writeFile(
    tool,
    `#!/bin/sh\nfor word; do printf '%s\\n' "$word" >> '${file}'; done\ntest "$NOTIFY_SOCKET" = /run/notify\n`,
  );
  await chmod(tool, 0o755);
  const words = async (): Promise<string[]> =>
    (await readFile(file, 'utf8').catch(() => '')).split('\n').filter((line) => line !== '');
  return { words, path: `${dir}${delimiter}${process.env['PATH']}` };
};

test('systemd is told that the agent is ready, alive, what it does, and that it stops', async () => {
  const { words, path } = await noteWords();
  const server = await startTestServer();
  const device = await openDevice(server);
  const agent = device.start(undefined, { PATH: path, NOTIFY_SOCKET: '/run/notify', WATCHDOG_USEC: '600000' });
  server.desire((await server.publishRelease('1.0.0', APPS.good)).instruction);
  await until('it is told of the commit', async () => (await words()).includes('STATUS=gateway@1.0.0: committed'));
  await until(
    'it is told of life again',
    async () => (await words()).filter((word) => word === 'WATCHDOG=1').length > 1,
  );
  expect(await agent.stop()).toEqual({ code: 0, signal: null });
  const told = await words();
  // That it is alive may be said before, where it takes long to get ready.
  expect(told.find((word) => word !== 'WATCHDOG=1')).toBe('READY=1');
  expect(told.at(-1)).toBe('STOPPING=1');
  expect(told).toContain('STATUS=gateway@1.0.0: trial (slot a)');
});

test.each(['journal', 'files'])('an agent whose %s hang is not said to be alive', async (what) => {
  const { words, path } = await noteWords();
  const before = process.env['PATH'];
  process.env['PATH'] = path;
  onTestFinished(() => void (process.env['PATH'] = before));
  const events: string[] = [];
  const log = {
    debug: () => undefined,
    info: () => undefined,
    warn: () => undefined,
    error: (fields: { event: string }) => void events.push(fields.event),
  };
  let writingMs = 0;
  let serve = async (): Promise<unknown> => undefined;
  const env = { NOTIFY_SOCKET: '/run/notify', WATCHDOG_USEC: '90000', WATCHDOG_PID: String(process.pid) };
  const manager = openServiceManager({ env, writingMs: () => writingMs, served: () => serve(), log: log as never });
  await until('it is fed', async () => (await words()).includes('WATCHDOG=1'));
  if (what === 'journal') writingMs = 1_000;
  else serve = () => new Promise(() => undefined);
  await until('it starves', () => events.includes('watchdog-starved'));
  await manager.stopping();
  expect((await words()).at(-1)).toBe('STOPPING=1');
});

test('not run by systemd, no one is told anything', async () => {
  const { words, path } = await noteWords();
  const device = await openDevice(await startTestServer());
  const agent = device.start(undefined, { PATH: path, NOTIFY_SOCKET: '' });
  await until('it runs', () => agent.lines.some(({ event }) => event === 'connected'));
  await agent.stop();
  expect(await words()).toEqual([]);
});

test('the unit is one that systemd accepts without a warning', async ({ skip }) => {
  if (!(await isThere('systemd-analyze'))) skip('there is no systemd-analyze here');
  const dir = await mkdtemp(join(tmpdir(), 'sluice-unit-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const config = AgentConfig.parse({
    device: 'gw-01',
    serverUrl: 'http://x',
    compatible: 'gw',
    dataDir: '/var/lib/sluice agent',
  });
  const places = {
    node: process.execPath,
    program: '/opt/sluice/100% sluice-agent.cjs',
    words: [],
    configFile: '/etc/sluice-agent.json',
    flags: { attributes: 'site=a b,price=$5' },
  };
  const file = join(dir, 'sluice-agent.service');
  await writeFile(file, unitText(config, places));
  const { stdout, stderr } = await run('systemd-analyze', ['verify', file]);
  expect(stdout + stderr).toBe('');
});

const PLACES = { node: '/node', program: '/agent.cjs', words: [], configFile: '/etc/agent.json', flags: {} };

test('the unit carries the flags it was asked with, and says which settings it does not carry', () => {
  const config = AgentConfig.parse({ device: 'gw-01', serverUrl: 'http://x', compatible: 'gw', dataDir: '/data' });
  const start = (text: string) => /^ExecStart=(.*)$/m.exec(text)?.[1];
  const plain = unitText(config, PLACES);
  expect(start(plain)).toMatch(/ \/agent\.cjs --launch --config \/etc\/agent\.json --data-dir=\/data$/);
  expect(plain).toContain('EnvironmentFile=-/etc/sluice-agent.env');
  expect(plain).not.toContain('Not in here');

  const token = `sle_${'t'.repeat(20)}`;
  const flags = { device: 'gw-01', 'data-dir': './data', attributes: 'price=$5', token };
  const env = { SLUICE_AGENT_DEVICE: 'other', SLUICE_AGENT_LOG_LEVEL: 'debug' };
  const given = unitText(config, { ...PLACES, flags }, env);
  expect(start(given)).toMatch(/ --device=gw-01 --data-dir=\/data --attributes=price=\$\$5$/);
  expect(given).not.toContain(token);
  expect(given).toContain('# Not in here, but set when this was printed: SLUICE_AGENT_TOKEN, SLUICE_AGENT_LOG_LEVEL\n');
  const proxy = 'http://user:secret@proxy:3128';
  const behind = unitText(config, { ...PLACES, flags: { proxy } }, { HTTPS_PROXY: proxy, no_proxy: '*' });
  expect(behind).not.toContain('secret');
  expect(behind).toContain('# Not in here, but set when this was printed: SLUICE_AGENT_PROXY, HTTPS_PROXY, no_proxy\n');
  // A program of its own has Node, and the flags, in it.
  expect(start(unitText(config, { ...PLACES, node: undefined, program: '/agent' }))).toMatch(/^\/agent --launch /);
});

test('the sandbox lets the agent write wherever its configuration has it write', () => {
  const writable = (more: object) => {
    const base = { device: 'gw-01', serverUrl: 'http://x', compatible: 'gw', dataDir: '/data' };
    const text = unitText(AgentConfig.parse({ ...base, ...more }), PLACES);
    return /^ReadWritePaths=(.*)$/m.exec(text)?.[1];
  };
  expect(writable({})).toBe('-/data');
  expect(writable({ local: { socket: '/run/sluice/agent.sock' } })).toBe('-/data -/run/sluice');
  expect(writable({ application: { secretsDir: '/etc/gateway secrets' } })).toBe('-/data -"/etc/gateway secrets"');
  const image = (selector: object) => writable({ slots: { kind: 'image', a: '/dev/a', b: '/srv/b', selector } });
  expect(image({ kind: 'uboot' })).toBe('-/data -/srv/b -/boot');
  expect(image({ kind: 'grub', environment: '/efi/grub/grubenv' })).toBe('-/data -/efi/grub -/srv/b -/boot');
  expect(image({ kind: 'raspberry-pi', autoboot: '/firmware/autoboot.txt' })).toBe('-/data -/firmware -/srv/b -/boot');
});

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { AGENT_SETTINGS, loadAgentConfig } from '#agent/config/config.ts';
import { AGENT_VERSION } from '#agent/config/version.ts';
import { readCommandLine } from '#agent/launch/command-line.ts';

const needed = { device: 'gw-01', 'server-url': 'http://127.0.0.1:8080/', compatible: 'gw' };

test('defaults, file, environment and flags, the last one wins', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-config-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const file = join(dir, 'agent.json');
  await writeFile(
    file,
    JSON.stringify({ heartbeatMs: 1_000, pollMs: 2_000, reconnect: { firstMs: 70 }, attributes: { site: 'lyon' } }),
  );
  const env = {
    SLUICE_AGENT_POLL_MS: '3000',
    SLUICE_AGENT_TRIAL_TRIES: '4',
    SLUICE_AGENT_LOG_LEVEL: '',
    SLUICE_AGENT_KILL_AT: 'nowhere',
  };
  const config = loadAgentConfig({ file, env, flags: { ...needed, 'trial-tries': '5', 'reconnect-max-ms': '900' } });
  expect(config).toMatchObject({
    ok: true,
    value: {
      serverUrl: 'http://127.0.0.1:8080',
      heartbeatMs: 1_000,
      pollMs: 3_000,
      trialTries: 5,
      reconnect: { firstMs: 70, maxMs: 900 },
      attributes: { site: 'lyon' },
      trustOnFirstUse: false,
      log: { level: 'info' },
    },
  });
});

test('attributes are pairs in a text', () => {
  const config = loadAgentConfig({ env: { SLUICE_AGENT_ATTRIBUTES: 'site=lyon, model=gw2=b,spare' }, flags: needed });
  expect(config).toMatchObject({ ok: true, value: { attributes: { site: 'lyon', model: 'gw2=b', spare: '' } } });
});

test('what is missing or wrong is named, with where it came from', () => {
  const nothing = loadAgentConfig({ env: {}, flags: {} });
  expect(!nothing.ok && nothing.detail).toContain('device is missing: give --device, SLUICE_AGENT_DEVICE');
  const wrong = loadAgentConfig({ env: { SLUICE_AGENT_HEARTBEAT_MS: 'often' }, flags: { ...needed, device: 'a b' } });
  expect(!wrong.ok && wrong.detail).toMatch(/--device: .*; SLUICE_AGENT_HEARTBEAT_MS: /);
  expect(loadAgentConfig({ env: {}, flags: { ...needed, token: 'sle_no' } })).toMatchObject({ ok: false });
  expect(loadAgentConfig({ env: {}, flags: { ...needed, colour: 'red' } })).toMatchObject({
    ok: false,
    detail: 'there is no setting --colour',
  });
  expect(loadAgentConfig({ file: '/nowhere.json', env: {}, flags: needed })).toMatchObject({
    ok: false,
    detail: expect.stringContaining('ENOENT'),
  });
});

test('the command line', () => {
  expect(readCommandLine(['--help'], {})).toMatchObject({
    ok: true,
    value: { print: expect.stringContaining('--server-url') },
  });
  const args = Object.entries(needed).flatMap(([name, value]) => [`--${name}`, value]);
  expect(readCommandLine(args, {})).toMatchObject({ ok: true, value: { config: { device: 'gw-01' } } });
  expect(readCommandLine(['--nonsense'], {})).toMatchObject({ ok: false });
});

test("docs/agent.md names every setting, and the version is the package's", async () => {
  const top = join(import.meta.dirname, '../../..');
  const page = await readFile(join(top, 'docs/agent.md'), 'utf8');
  expect(AGENT_SETTINGS.filter((setting) => !page.includes(`\`${setting}\``))).toEqual([]);
  const { version } = JSON.parse(await readFile(join(top, 'package.json'), 'utf8')) as { version: string };
  expect(AGENT_VERSION).toBe(version);
});

test('an MQTT address that no connection could use is refused in words', () => {
  for (const wrong of ['mqtt.example.com', 'mqtt://x:99999', 'mqtt://[::1', 'mqtts://:8883']) {
    const config = loadAgentConfig({ env: {}, flags: { ...needed, 'mqtt-url': wrong } });
    expect(!config.ok && config.detail).toContain('--mqtt-url: must be mqtt://host:port');
  }
});

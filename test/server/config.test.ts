import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { environmentName, flagName, loadConfig, SETTINGS, ServerConfig } from '#server/config.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-config-'));
});
afterEach(() => rm(dir, { recursive: true }));

const fileOf = async (text: string): Promise<string> => {
  const file = join(dir, 'sluice.yaml');
  await writeFile(file, text);
  return file;
};
const load = (sources: Partial<Parameters<typeof loadConfig>[0]>) => {
  const config = loadConfig({ env: {}, flags: {}, ...sources });
  return config.ok ? config.value : config.detail;
};

test('nothing given is a configuration that works on this machine', () => {
  expect(load({})).toMatchObject({
    http: { host: '127.0.0.1', port: 8080 },
    mqtt: { host: '127.0.0.1', port: 1883 },
    channels: [{ name: 'staging' }, { name: 'production' }],
    artifacts: { public: false },
  });
});

test('flags win over the environment, which wins over the file, which wins over defaults', async () => {
  const file = await fileOf('http: { port: 1, host: from-file }\nmqtt: { port: 1 }\nlog: { level: warn }\n');
  const env = {
    SLUICE_HTTP_PORT: '2',
    SLUICE_MQTT_PORT: '2',
    SLUICE_CHANNELS: 'lab,field',
    SLUICE_ARTIFACTS_PUBLIC: 'true',
  };
  expect(load({ file, env, flags: { 'http-port': '3' } })).toMatchObject({
    http: { port: 3, host: 'from-file' },
    mqtt: { port: 2, host: '127.0.0.1' },
    log: { level: 'warn' },
    channels: [{ name: 'lab' }, { name: 'field' }],
    artifacts: { public: true },
  });
});

test('an empty variable is none', () => {
  expect(load({ env: { SLUICE_HTTP_PORT: '' } })).toMatchObject({ http: { port: 8080 } });
});

test('every value that is wrong is named by where it was given', async () => {
  const file = await fileOf('stopMs: never\nhttp: { colour: red }\n');
  const wrong = load({ file, env: { SLUICE_HTTP_PORT: '99999' }, flags: { 'mqtt-public-url': 'http://x' } });
  for (const name of ['stopMs', 'http', 'colour', 'SLUICE_HTTP_PORT', '--mqtt-public-url'])
    expect(wrong).toContain(name);
});

test.each([
  ['an unknown setting', 'mqqt: {}', /mqqt/],
  ['a list', '- 1', /mapping/],
  ['broken YAML', 'http: [', /sluice\.yaml/],
  ['TLS with half of its files', 'tls: { certFile: a.pem }', /tls\.keyFile/],
  ['a channel that is no name', 'channels: [a b]', /channels/],
])('%s in the file is refused in words', async (_what, text, words) => {
  expect(load({ file: await fileOf(text) })).toMatch(words);
});

test('a file that is not there, and a flag that is none, are refused in words', () => {
  expect(load({ file: join(dir, 'none.yaml') })).toMatch(/cannot be read \(ENOENT\)/);
  expect(load({ flags: { nonsense: '1' } })).toMatch(/--nonsense/);
});

test('an empty file is as good as none, and JSON is YAML', async () => {
  expect(load({ file: await fileOf('') })).toMatchObject({ http: { port: 8080 } });
  expect(load({ file: await fileOf('{"http":{"port":5}}') })).toMatchObject({ http: { port: 5 } });
});

test('every setting of the schema has a name, and stands in the table of docs/operations.md', async () => {
  const leaves = (value: unknown, path: string): string[] =>
    typeof value === 'object' && value !== null && !Array.isArray(value)
      ? Object.entries(value).flatMap(([key, inner]) => leaves(inner, path === '' ? key : `${path}.${key}`))
      : [path];
  const full = ServerConfig.parse({
    tls: { certFile: 'a', keyFile: 'b' },
    mqtt: { publicUrl: 'mqtt://x:1' },
    log: { pretty: true },
  });
  expect(leaves(full, '').sort()).toEqual([...SETTINGS].sort());
  const page = await readFile(join(import.meta.dirname, '../../docs/operations.md'), 'utf8');
  for (const setting of SETTINGS) {
    expect(page).toContain(`| \`${setting}\` | \`--${flagName(setting)}\` | \`${environmentName(setting)}\` |`);
  }
});

test('proxies are believed only where they are named, and never everyone', async () => {
  expect(load({})).toMatchObject({ http: { trustProxy: [] } });
  expect(load({ flags: { 'http-trust-proxy': '10.0.0.7, fd00::/8' } })).toMatchObject({
    http: { trustProxy: ['10.0.0.7', 'fd00::/8'] },
  });
  const file = await fileOf('http: { trustProxy: [192.168.1.0/24] }\n');
  expect(load({ file })).toMatchObject({ http: { trustProxy: ['192.168.1.0/24'] } });
});

test.each(['true', '0.0.0.0/0', '::/0', '10.0.0.0/33', 'proxy.example.com', ''])(
  'a proxy %j to be believed is refused in words',
  async (wrong) => {
    const file = await fileOf(`http: { trustProxy: ['${wrong}'] }\n`);
    expect(load({ file })).toContain('http.trustProxy');
  },
);

test.each(['mqtt.example.com', 'mqtt.example.com:1883', 'mqtt://x:99999', 'mqtt://', 'http://x', 'mqtt://a:b@x'])(
  'an address %j of MQTT, which no device could use, is refused in words',
  (wrong) => {
    expect(load({ flags: { 'mqtt-public-url': wrong } })).toContain('--mqtt-public-url: must be mqtt://host:port');
  },
);

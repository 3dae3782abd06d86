import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeEach, expect, onTestFinished, test } from 'vitest';
import { AgentConfig } from '#agent/config/config.ts';
import { lockFolder } from '#agent/disk/folder-lock.ts';
import { examineDevice, fitnessText } from '#agent/fitness/fitness.ts';
import { openBootSelector } from '#agent/slots/boot-selector.ts';
import { generateEd25519Key } from '#shared/trust/ed25519-signer.ts';

const TOKEN = `sle_${Buffer.alloc(32, 7).toString('base64url')}_${Buffer.alloc(32, 9).toString('base64url')}`;
let dir: string;
let dataDir: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-fitness-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  dataDir = join(dir, 'data');
  await mkdir(dataDir, { mode: 0o700 });
});

const listen = async (server: ReturnType<typeof createTcpServer>): Promise<number> => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  const address = server.address();
  return typeof address === 'object' ? address!.port : 0;
};
/** Says the date that it is told to. */
const serverAt = async (skewMs = 0): Promise<string> =>
  `http://127.0.0.1:${await listen(
    createServer((_asked, answer) => {
      answer.setHeader('date', new Date(Date.now() + skewMs).toUTCString());
      answer.setHeader('connection', 'close').end('{}');
    }),
  )}`;

const examine = async (settings: object) => {
  const config = AgentConfig.parse({ device: 'gw-01', compatible: 'gw-x86', dataDir, token: TOKEN, ...settings });
  const fitness = await examineDevice(config, Date.now);
  return { ...fitness, of: (what: string) => fitness.findings.filter((finding) => finding.what === what) };
};

test('a new device with a token, room and a server is fit, and nothing was written into its folder', async () => {
  const mqttUrl = `mqtt://127.0.0.1:${await listen(createTcpServer())}`;
  const { fit, findings, of } = await examine({ serverUrl: await serverAt(), mqttUrl, dataDir: join(dir, 'new') });
  expect(findings.filter(({ state }) => state !== 'good')).toEqual([]);
  expect(fit).toBe(true);
  expect(of('MQTT')).toMatchObject([{ found: `${mqttUrl} accepts connections` }]);
  await expect(rm(join(dir, 'new'))).rejects.toMatchObject({ code: 'ENOENT' });
});

test('a server that is not there makes a device unfit, and people are told what to look at', async () => {
  const fitness = await examine({ serverUrl: 'http://127.0.0.1:1', mqttUrl: 'mqtt://127.0.0.1:1' });
  expect(fitness.fit).toBe(false);
  expect(fitness.of('server')).toMatchObject([{ state: 'unfit', found: expect.stringContaining('ECONNREFUSED') }]);
  expect(fitness.of('MQTT')).toMatchObject([{ state: 'doubtful' }]);
  expect(fitnessText(fitness)).toMatch(/UNFIT +server .*ECONNREFUSED[^\n]*\n +-> is serverUrl right/);
  expect(fitnessText(fitness)).toContain('gw-01 is NOT fit');
});

test('a clock that disagrees with the server is a warning, since the agent learns the time', async () => {
  const { fit, of } = await examine({ serverUrl: await serverAt(3_600_000) });
  expect(of('clock')).toMatchObject([{ state: 'doubtful', found: expect.stringMatching(/is 3[56]\d\d s behind/) }]);
  expect(fit).toBe(true);
});

test('a key that others may read is a warning; one that is no key, or is gone, makes the device unfit', async () => {
  const serverUrl = await serverAt();
  await writeFile(join(dataDir, 'device.key'), generateEd25519Key(), { mode: 0o644 });
  await chmod(join(dataDir, 'device.key'), 0o644);
  expect((await examine({ serverUrl })).of('key')).toMatchObject([
    { state: 'doubtful', todo: expect.stringContaining('chmod 600') },
  ]);
  await writeFile(join(dataDir, 'device.key'), 'not a key');
  expect((await examine({ serverUrl })).of('key')).toMatchObject([{ state: 'unfit' }]);
  await rm(join(dataDir, 'device.key'));
  await writeFile(join(dataDir, 'enrolment.json'), '{}');
  expect((await examine({ serverUrl })).of('key')).toMatchObject([
    { state: 'unfit', found: expect.stringContaining('is gone') },
  ]);
});

test('an application of another user may go through the folder to its slot, and no more', async () => {
  const settings = { serverUrl: await serverAt(), application: { user: 'nobody' } };
  await chmod(dataDir, 0o711);
  expect((await examine(settings)).of('data folder')).toMatchObject([{ state: 'good' }]);
  await chmod(dataDir, 0o755);
  expect((await examine(settings)).of('data folder')).toMatchObject([
    { state: 'doubtful', todo: `chmod 711 ${dataDir}` },
  ]);
});

test('a folder that is open to others is a warning, and one that cannot be made is no place for an agent', async () => {
  const serverUrl = await serverAt();
  await chmod(dataDir, 0o755);
  expect((await examine({ serverUrl })).of('data folder')).toMatchObject([{ state: 'doubtful' }]);
  await writeFile(join(dir, 'file'), '');
  expect((await examine({ serverUrl, dataDir: join(dir, 'file') })).of('data folder')).toMatchObject([
    { state: 'unfit' },
  ]);
  expect((await examine({ serverUrl, dataDir: join(dir, 'file', 'below') })).fit).toBe(false);
});

test('who is not told whom to trust is unfit; who would trust anyone is warned', async () => {
  const serverUrl = await serverAt();
  expect((await examine({ serverUrl, token: undefined })).of('trust')).toMatchObject([{ state: 'unfit' }]);
  const trusting = await examine({ serverUrl, token: undefined, trustOnFirstUse: true });
  expect(trusting.of('trust')).toMatchObject([{ state: 'doubtful' }]);
});

test('a damaged boot selector is found, and left as it is', async () => {
  const serverUrl = await serverAt();
  const slots = join(dataDir, 'slots');
  await mkdir(slots);
  await openBootSelector(slots).write({ active: 'a', trial: null });
  expect((await examine({ serverUrl })).of('slots')).toMatchObject([{ state: 'good' }]);
  await writeFile(join(slots, 'boot.0.json'), 'torn');
  expect((await examine({ serverUrl })).of('slots')).toMatchObject([
    { state: 'unfit', found: expect.stringContaining('damaged') },
  ]);
});

test('image slots are examined: their boot loader, their sizes, and which one runs', async () => {
  const [a, b, commandLine] = [join(dir, 'a.img'), join(dir, 'b.img'), join(dir, 'cmdline')];
  for (const file of [a, b, commandLine]) await writeFile(file, 'ro sluice.slot=a\n');
  await truncate(a, 4_000_000);
  await truncate(b, 3_000_000);
  const slots = {
    kind: 'image',
    a,
    b,
    selector: { kind: 'grub', environment: join(dir, 'no-such-grubenv') },
    running: { by: 'command-line', file: commandLine },
    reboot: ['no-such-reboot'],
  };
  const { fit, of } = await examine({ serverUrl: await serverAt(), slots });
  expect(fit).toBe(false);
  expect(of('boot selector').map(({ state }) => state)).toContain('unfit');
  expect(of('running slot')).toMatchObject([{ found: 'a, as the system shows' }]);
  expect(of('slot b')).toMatchObject([{ state: 'good', found: `${b}, 3.0 MB` }]);
  expect(of('slots')).toMatchObject([{ state: 'doubtful' }]);
  expect(of('commands')).toMatchObject([{ state: 'unfit', found: 'not found: no-such-reboot' }]);
});

test('secrets that could not be kept out of logs are a warning', async () => {
  const secretsDir = join(dir, 'secrets');
  await mkdir(secretsDir);
  await writeFile(join(secretsDir, 'key'), 'correct-horse');
  const settings = { serverUrl: 'http://127.0.0.1:1', mqttUrl: 'mqtt://127.0.0.1:1', application: { secretsDir } };
  expect((await examine(settings)).of('secrets')).toMatchObject([
    { state: 'good', found: expect.stringMatching(/^1 in /) },
  ]);
  await writeFile(join(secretsDir, 'large'), 'x'.repeat(20_000));
  expect((await examine(settings)).of('secrets')).toMatchObject([
    { state: 'doubtful', found: expect.stringContaining('large has more than 16384 bytes') },
  ]);
});

test('an agent that runs in the folder is seen, and not disturbed', async () => {
  const held = await lockFolder(dataDir);
  if (!held.ok) throw new Error(held.detail);
  onTestFinished(() => held.value.release());
  expect((await examine({ serverUrl: await serverAt() })).of('agent')).toMatchObject([
    { found: 'runs at this moment' },
  ]);
});

test.for([
  ['is not there', undefined, 'ENOENT'],
  ['may not be executed', { text: '#!/bin/sh\nexit 0\n', mode: 0o644 }, 'EACCES'],
  ['answers in another form', { text: '#!/bin/sh\necho \'{"running": "c"}\'\n', mode: 0o755 }, 'not of the form'],
  ['fails', { text: '#!/bin/sh\necho no line >&2; exit 74\n', mode: 0o755 }, 'no line'],
] as const)('an installer that %s makes a device unfit, and it is said why', async ([, script, why]) => {
  const command = join(dir, 'installer.sh');
  if (script !== undefined) await writeFile(command, script.text, { mode: script.mode });
  const slots = { kind: 'delegate', installer: 'command', handler: 'mcu', command: [command] };
  const { fit, of } = await examine({ serverUrl: await serverAt(), mqttUrl: 'mqtt://127.0.0.1:1', slots });
  expect(of('installer')).toMatchObject([{ state: 'unfit', found: expect.stringContaining(why) }]);
  expect(fit).toBe(false);
});

test('an installer that answers is fit, and is asked for nothing but what is so', async () => {
  const [command, asked] = [join(dir, 'installer.sh'), join(dir, 'asked')];
  await writeFile(command, '#!/bin/sh\necho "$@" >> "$ASKED"\necho \'{"running": "a", "active": "a"}\'\n', {
    mode: 0o755,
  });
  const slots = {
    kind: 'delegate',
    installer: 'command',
    handler: 'mcu',
    command: [command],
    environment: { ASKED: asked },
  };
  const { of } = await examine({ serverUrl: await serverAt(), mqttUrl: 'mqtt://127.0.0.1:1', slots });
  expect(of('installer')).toMatchObject([{ state: 'good', found: 'mcu answers' }]);
  expect(await readFile(asked, 'utf8')).toBe('inspect\n');
});

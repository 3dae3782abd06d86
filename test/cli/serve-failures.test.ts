import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { swept } from '#test/sweep.ts';
import { runSluice } from './run.ts';

// A server that does not start says why in one sentence and ends: real processes, which must leave nothing open.
let dir: string;
let taken: string;
const holder = createServer();
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-serve-'));
  holder.listen(0, '127.0.0.1');
  await once(holder, 'listening');
  taken = String((holder.address() as AddressInfo).port);
});
afterAll(async () => {
  holder.close();
  await rm(dir, { recursive: true, force: true });
});

const put = async (name: string, content: string): Promise<string> => {
  const file = join(dir, name);
  await mkdir(join(file, '..'), { recursive: true });
  await writeFile(file, content);
  return file;
};
const certificate = (name: string): string => join(import.meta.dirname, '..', 'server', name);

type Case = [name: string, flags: () => Promise<string[]>, sentence: RegExp];
const CASES: Case[] = [
  [
    'TLS files that are garbage',
    async () => ['--tls-cert-file', await put('c.pem', 'garbage'), '--tls-key-file', await put('k.pem', 'garbage')],
    /c\.pem \(--tls-cert-file\) holds no certificate/,
  ],
  [
    'a key that is not the certificate’s',
    async () => [
      '--tls-cert-file',
      certificate('localhost-key.pem'),
      '--tls-key-file',
      certificate('localhost-cert.pem'),
    ],
    /the wrong way round/,
  ],
  ['a port of MQTT that is taken', async () => ['--mqtt-port', taken], /MQTT cannot listen on .*the port is taken/],
  ['a port of HTTP that is taken', async () => ['--http-port', taken], /HTTP cannot listen on .*the port is taken/],
  ['an address that is not here', async () => ['--http-host', '192.0.2.1'], /this machine has no such address/],
  [
    'a data folder that is a file',
    async () => ['--data-dir', await put('file', '')],
    /the data folder .*file cannot be used/,
  ],
  [
    'a damaged database',
    async () => ['--data-dir', join(await put('damaged/sluice.db', 'x'.repeat(8192)), '..')],
    /sluice\.db: .*not a database/,
  ],
  [
    'a damaged key',
    async () => ['--data-dir', join(await put('badkey/keys/log.pem', '{'), '..', '..')],
    /the keys cannot be used: .*log\.pem/,
  ],
  [
    'damaged metadata',
    async () => ['--data-dir', join(await put('badroot/tuf/metadata/1.root.json', '{'), '..', '..', '..')],
    /the metadata in .*tuf cannot be used: .*malformed/,
  ],
  [
    'a file in the place of the objects',
    async () => ['--data-dir', join(await put('badobjects/objects', ''), '..')],
    /the files of releases cannot be kept: .*objects/,
  ],
  [
    'a folder in the place of the lock',
    async () => ['--data-dir', join(await put('badlock/lock.db/x', ''), '..', '..')],
    /the data folder .*badlock cannot be used/,
  ],
];

test.concurrent.each(swept(CASES, 4))('%s ends the start with a sentence', async (name, flags, sentence) => {
  const folder = join(dir, name.replaceAll(/\W/g, '-'));
  const ran = await runSluice([
    'serve',
    '--data-dir',
    folder,
    '--http-port',
    '0',
    '--mqtt-port',
    '0',
    '--log-level',
    'silent',
    ...(await flags()),
  ]);
  expect(ran).toMatchObject({ code: 1, err: expect.stringMatching(sentence) });
  expect(ran.err).not.toMatch(/\n\s+at /);
  expect(ran.err.trim().split('\n')).toHaveLength(1);
});

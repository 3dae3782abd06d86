/** Transfers over real sockets: CI publishes as the command does, and a device asks for what it needs. */
import { type ChildProcess, fork } from 'node:child_process';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { z } from 'zod';
import { type Client, openClient } from '#cli/client.ts';
import { checkBundle, type PublishSteps, publishRelease } from '#cli/publish.ts';
import { routes } from '#shared/api.ts';
import { createBundle } from '#shared/create-bundle.ts';
import { deviceRoutes } from '#shared/device-api.ts';
import { Id } from '#shared/ids.ts';
import type { Artifact } from '#shared/manifest.ts';
import { parseIndex } from '#shared/transfer/chunk-index.ts';
import { openFrame, PACK_HEADER_BYTES, packHeadBytes, parsePackHead, parsePackHeader } from '#shared/transfer/pack.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { publicKeyPem } from '#shared/trust/keys.ts';
import { generatePrivateKey, type Signer, signerFromPem } from '#shared/trust/signers.ts';
import { noise } from '#test/shared/transfer/bytes.ts';
import { admit, type Device, newFolder, removeFolder, until } from './running.ts';

const SLUICE = join(import.meta.dirname, '..', '..', 'server', 'main.ts');
const GATEWAY = Id.parse('gateway');
let dir: string;
let children: ChildProcess[];
let ci: Signer;

beforeEach(async () => {
  dir = await newFolder();
  children = [];
  ci = must(signerFromPem(generatePrivateKey('ed25519')));
});
afterEach(async () => {
  for (const child of children) await kill(child);
  await removeFolder(dir);
});
const must = <T>(result: { ok: true; value: T } | { ok: false; detail: string }): T => {
  if (!result.ok) throw new Error(result.detail);
  return result.value;
};
const kill = async (child: ChildProcess): Promise<void> => {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await ended;
};

type Running = { child: ChildProcess; url: string; token: string; client: Client };
const run = async (): Promise<Running> => {
  const child = fork(SLUICE, ['--data-dir', join(dir, 'data'), '--http-port', '0', '--mqtt-port', '0'], {
    stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
  });
  children.push(child);
  let out = '';
  const url = await new Promise<string>((resolve, reject) => {
    child.stdout?.on('data', (piece: Buffer) => {
      out += piece.toString();
      const line = out.split('\n').find((one) => one.includes('"server-started"') && one.endsWith('}'));
      if (line !== undefined) resolve(z.object({ httpUrl: z.string() }).parse(JSON.parse(line)).httpUrl);
    });
    child.once('exit', (code) => reject(new Error(`ended with ${code}`)));
  });
  const token = (await readFile(join(dir, 'data', 'admin-token'), 'utf8')).trim();
  return { child, url, token, client: openClient({ url, token }) };
};

const publish = async ({ client }: Running, version: string, content: Buffer): Promise<Artifact> => {
  const work = join(dir, version);
  await mkdir(work);
  await writeFile(join(work, 'app'), content);
  const file = join(work, 'gateway.sluice');
  const { manifest } = must(
    await createBundle({
      manifest: { product: GATEWAY, version, compatible: Id.parse('gw2'), securityCounter: 0 },
      artifacts: [{ name: 'app', file: join(work, 'app'), install: { kind: 'file', path: 'app' } }],
      out: file,
    }),
  );
  const steps: PublishSteps = { checking: checkBundle, sending: (_, send) => send(() => {}), again: () => {} };
  await publishRelease(client, { files: [file], signer: ci, now: Date.now }, steps);
  const params = { release: `gateway@${version}` };
  await client.call(routes.releaseStage, { params, body: { channel: Id.parse('production') } });
  return manifest.artifacts[0]!;
};
const makeProduct = ({ client }: Running): Promise<unknown> =>
  client.call(routes.productCreate, { body: { name: GATEWAY, keys: [publicKeyPem(ci.key)] } });

const get = async ({ url }: Running, device: Device, path: string): Promise<Buffer> => {
  const response = await fetch(url + path, { headers: { authorization: device.authorization() } });
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  return Buffer.from(await response.arrayBuffer());
};
const packFor = async (server: Running, device: Device, query: string) => {
  const answer: unknown = JSON.parse((await get(server, device, `/device/v1/pack?${query}`)).toString());
  return deviceRoutes.pack.answer.parse(answer).pack;
};
const packTo = async (server: Running, device: Device, artifact: Artifact) => {
  let pack: Awaited<ReturnType<typeof packFor>> = null;
  await until(async () => (pack = await packFor(server, device, `to=${artifact.chunks!.index}`)) !== null, 'a pack');
  return pack!;
};

test('a device gets the index, a pack and any single chunk of what CI published, and out of them the artifact', async () => {
  const server = await run();
  await makeProduct(server);
  const content = noise('published', 400_000);
  const artifact = await publish(server, '1.0.0', content);
  const device = await admit(server.url, server.token, 'gw-1');
  const index = await get(server, device, `/o/${artifact.chunks!.index}`);
  const parsed = parseIndex(index, { artifactBytes: artifact.bytes });
  const records = parsed.ok ? parsed.records : [];
  const chunks = await Promise.all(records.map(({ sha256 }) => get(server, device, `/o/${sha256}`)));
  expect(Buffer.concat(chunks).equals(content)).toBe(true);

  const { sha256, bytes } = await packTo(server, device, artifact);
  const pack = await get(server, device, `/o/${sha256}`);
  expect([pack.length, sha256Hex(pack)]).toEqual([bytes, sha256]);
  expect(parsePackHeader(pack.subarray(0, PACK_HEADER_BYTES))).toMatchObject({ from: null, records: records.length });
  const { offset, frameBytes } = parsePackHead(pack.subarray(0, packHeadBytes(records.length)), bytes)!.table[0]!;
  const first = openFrame(pack.subarray(offset, offset + frameBytes), null, records[0]!.bytes);
  expect(first.equals(content.subarray(0, records[0]!.bytes))).toBe(true);

  // One `from`, several, and none of any use; and who is no device is told nothing.
  const to = `to=${artifact.chunks!.index}`;
  const other = sha256Hex('other');
  for (const more of [`&from=${other}`, `&from=${other}&from=${artifact.sha256}`]) {
    expect(await packFor(server, device, to + more)).toMatchObject({ sha256, from: null, level: 9 });
  }
  expect(await packFor(server, device, `to=${other}`)).toBeNull();
  expect((await fetch(`${server.url}/device/v1/pack?${to}`)).status).toBe(401);
  await expect(packFor(server, device, 'to=nonsense')).rejects.toThrow('400');
});

test('a server that is killed while it makes packs tells of none that is not whole, and makes them after the next start', async () => {
  let server = await run();
  await makeProduct(server);
  const device = await admit(server.url, server.token, 'gw-1');
  const artifacts: Artifact[] = [];
  for (const round of [0, 1]) {
    artifacts.push(await publish(server, `1.0.${round}`, noise(`round ${round}`, 2_000_000)));
    // While something is in the making, or as soon as it is made.
    const making = async (): Promise<boolean> => (await readdir(join(dir, 'data', 'staging'))).length > 0;
    await until(
      async () => (await making()) || (await packFor(server, device, `to=${artifacts[round]!.chunks!.index}`)) !== null,
      'work',
    );
    await kill(server.child);
    server = await run();
  }
  for (const artifact of artifacts) {
    const { sha256, bytes } = await packTo(server, device, artifact);
    const pack = await get(server, device, `/o/${sha256}`);
    expect([pack.length, sha256Hex(pack)]).toEqual([bytes, sha256]);
  }
  await until(async () => (await readdir(join(dir, 'data', 'staging'))).length === 0, 'nothing half is left');
});

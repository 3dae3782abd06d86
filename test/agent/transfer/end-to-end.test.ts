/** Updates over a wire whose bytes are counted: the real server, a real agent in a process of its own, real bundles. */

import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Client, openClient } from '#cli/client.ts';
import { checkBundle, type PublishSteps, publishRelease } from '#cli/publish.ts';
import { type RunningServer, startServer } from '#server/main.ts';
import { routes } from '#shared/api.ts';
import { createBundle } from '#shared/create-bundle.ts';
import { Id } from '#shared/ids.ts';
import type { Manifest } from '#shared/manifest.ts';
import { writeTree } from '#shared/tree.ts';
import { publicKeyPem } from '#shared/trust/keys.ts';
import { generatePrivateKey, type Signer, signerFromPem } from '#shared/trust/signers.ts';
import { openDevice, type RunningAgent, until } from '#test/agent/harness.ts';
import { runSluice } from '#test/cli/run.ts';
import { packsMade } from '#test/server/packs.ts';
import { configFor, newFolder, removeFolder } from '#test/server/running.ts';
import { noise } from '#test/shared/transfer/bytes.ts';
import { ALL_SWEEPS } from '#test/sweep.ts';
import { openProxy } from './proxy.ts';
import { prose } from './rig.ts';

const GATEWAY = Id.parse('gateway');
const DEVICE = Id.parse('gw-1');
const FILES = 24;
const FILE_BYTES = 100_000;
const TREE_BYTES = FILES * FILE_BYTES;

let dir: string;
let server: RunningServer;
let client: Client;
let ci: Signer;
beforeEach(async () => {
  dir = await newFolder();
  server = await startServer(configFor(join(dir, 'data')));
  client = openClient({ url: server.httpUrl, token: server.adminToken! });
  const signer = signerFromPem(generatePrivateKey('ed25519'));
  if (!signer.ok) throw new Error(signer.detail);
  ci = signer.value;
  await client.call(routes.productCreate, { body: { name: GATEWAY, keys: [publicKeyPem(ci.key)] } });
});
afterEach(async () => {
  await server.stop();
  await removeFolder(dir);
});

type Tree = { files: number; make: (file: number) => typeof noise };
const MIXED: Tree = { files: FILES, make: (file) => (file % 3 === 0 ? noise : prose) };

/** A tree of which a version changes one file and a few bytes. */
const publish = async (version: string, { files, make }: Tree = MIXED): Promise<Manifest> => {
  const work = join(dir, version);
  await mkdir(join(work, 'tree', 'lib'), { recursive: true });
  await writeFile(join(work, 'tree', 'app.mjs'), `// ${version}\nsetInterval(() => {}, 1000);\n`);
  for (let file = 0; file < files; file += 1) {
    const changed = file === 7 ? version : 'same';
    await writeFile(join(work, 'tree', 'lib', `file-${file}`), make(file)(`${changed} ${file}`, FILE_BYTES));
  }
  const tree = await writeTree(join(work, 'tree'), 'none', join(work, 'tree.tar'));
  if (!tree.ok) throw new Error(tree.detail);
  const created = await createBundle({
    manifest: {
      product: GATEWAY,
      version,
      compatible: Id.parse('gw-test'),
      securityCounter: 1,
      run: { command: ['node', 'app.mjs'] },
      health: { soakMs: 100, deadlineMs: 120_000, intervalMs: 50 },
    },
    artifacts: [{ name: 'app', file: join(work, 'tree.tar'), install: { kind: 'tree', compression: 'none' } }],
    out: join(work, 'gateway.sluice'),
  });
  if (!created.ok) throw new Error(created.detail);
  const steps: PublishSteps = { checking: checkBundle, sending: (_, send) => send(() => {}), again: () => {} };
  await publishRelease(client, { files: [join(work, 'gateway.sluice')], signer: ci, now: Date.now }, steps);
  const params = { release: `gateway@${version}` };
  await client.call(routes.releaseStage, { params, body: { channel: Id.parse('production') } });
  return created.value.manifest;
};

const openSite = async (settings: Record<string, unknown> = {}, killAt?: string) => {
  const proxy = await openProxy(Number(new URL(server.httpUrl).port));
  const { tokens } = await client.call(routes.enrolmentTokenCreate, { body: { count: 1 } });
  const device = await openDevice({ url: proxy.url, token: tokens[0]! }, { device: DEVICE, ...settings });
  const agent = device.start(killAt);
  const known = async (): Promise<number> => (await client.call(routes.deviceList, { query: {} })).items.length;
  await until('it is let in', async () => (await known()) === 1);
  await client.call(routes.cohortCreate, { body: { name: Id.parse('all'), devices: [DEVICE] } });
  return { proxy, agent, ...device };
};

const roll = async (version: string, agent: RunningAgent): Promise<void> => {
  const body = { release: `gateway@${version}`, cohorts: [{ cohort: Id.parse('all') }] };
  const { id } = await client.call(routes.rolloutCreate, { body });
  const show = () => client.call(routes.rolloutShow, { params: { rollout: id } });
  await until(
    `${version} is everywhere`,
    async () => (await show()).state === 'completed',
    180_000,
    () => ({ lines: agent.lines.slice(-12) }),
  );
};
const publishWithPacks = async (version: string, packs: number): Promise<void> =>
  packsMade(join(dir, 'data'), await publish(version), packs);
const fetchedOf = (agent: RunningAgent): unknown => agent.lines.findLast(({ event }) => event === 'artifact-fetched');

test('a new version costs a small part of it on the wire, and the device says so', async () => {
  await publishWithPacks('1.0.0', 1);
  const { proxy, agent, dataDir } = await openSite();
  await roll('1.0.0', agent);
  expect(fetchedOf(agent)).toMatchObject({ seed: 0, there: 0 });
  expect(proxy.state.bytesDown).toBeLessThan(TREE_BYTES);

  // From nothing, and from what the device runs.
  await publishWithPacks('1.1.0', 2);
  await until('what runs is kept', async () =>
    (await readdir(join(dataDir, 'artifacts'))).some((name) => name.endsWith('.zstd')),
  );
  const before = proxy.state.bytesDown;
  await roll('1.1.0', agent);
  const onTheWire = proxy.state.bytesDown - before;
  expect(onTheWire).toBeLessThan(TREE_BYTES / 8);
  const shown = await runSluice(['device', 'show', DEVICE], {
    environment: { SLUICE_URL: server.httpUrl, SLUICE_TOKEN: server.adminToken! },
  });
  expect(shown.err).toBe('');
  const reported = Number(/bytes_fetched=(\d+)/.exec(shown.out)?.[1]);
  expect(reported).toBeGreaterThan(0);
  expect(reported).toBeLessThan(onTheWire);
}, 500_000);

test.runIf(ALL_SWEEPS)(
  'with nothing kept a new version comes in a fresh pack, all of it, compressed',
  async () => {
    await publish('1.0.0');
    const { proxy, agent, dataDir } = await openSite({ keepArtifacts: 'none' });
    await roll('1.0.0', agent);
    // From nothing, and from what the device runs, which it cannot use.
    await publishWithPacks('1.1.0', 2);
    const before = proxy.state.bytesDown;
    await roll('1.1.0', agent);
    expect(proxy.state.bytesDown - before).toBeGreaterThan(TREE_BYTES / 3);
    expect(proxy.state.bytesDown - before).toBeLessThan(TREE_BYTES * 0.9);
    expect(fetchedOf(agent)).toMatchObject({ seed: 0 });
    expect(await readdir(join(dataDir, 'artifacts')).catch(() => [])).toEqual([]);
  },
  500_000,
);

test('a whole update goes over MQTT where HTTP is shut off, metadata and all', async () => {
  await publish('1.0.0');
  const { proxy, agent } = await openSite();
  await roll('1.0.0', agent);
  await publish('1.1.0');
  proxy.shut();
  const before = proxy.state.bytesDown;
  await roll('1.1.0', agent);
  expect(proxy.state.bytesDown).toBe(before);
  expect(proxy.state.refused).toBeGreaterThan(0);
  expect(agent.lines.map(({ event }) => event)).toContain('http-away');
}, 500_000);

for (const step of ['fetch.half', 'fetch.app'] as const) {
  test(`killed at ${step} a download goes on, and what was verified is not fetched again`, async () => {
    // Noise: what is fetched again costs as many bytes on the wire as it has.
    const files = 2 * FILES;
    await publish('1.0.0', { files, make: () => noise });
    const { proxy, agent, start } = await openSite({}, step);
    const body = { release: 'gateway@1.0.0', cohorts: [{ cohort: Id.parse('all') }] };
    const { id } = await client.call(routes.rolloutCreate, { body });
    expect(await agent.ended).toMatchObject({ signal: 'SIGKILL' });
    const before = proxy.state.bytesDown;
    const again = start();
    const show = () => client.call(routes.rolloutShow, { params: { rollout: id } });
    await until(
      'it is there',
      async () => (await show()).state === 'completed',
      180_000,
      () => again.lines.slice(-12),
    );
    const fetched = again.lines.findLast(({ event }) => event === 'artifact-fetched') as { there?: number } | undefined;
    // Half is put; the last two batches of it may not have been written.
    const least = { 'fetch.half': 600_000, 'fetch.app': files * FILE_BYTES }[step];
    expect(fetched?.there).toBeGreaterThanOrEqual(least);
    // What crosses the wire beside the artifact: metadata, the manifest, the index.
    const rest = Math.max(files * FILE_BYTES - fetched!.there!, 0);
    expect(proxy.state.bytesDown - before).toBeLessThan(rest + 200_000);
  }, 500_000);
}

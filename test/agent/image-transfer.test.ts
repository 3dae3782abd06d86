/**
 * Images from a real server: assembled chunk by chunk in the standby slot itself, from the slot that runs and what is
 * fetched.
 */
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { openClient } from '#cli/client.ts';
import { checkBundle, type PublishSteps, publishRelease } from '#cli/publish.ts';
import { startServer } from '#server/main.ts';
import { routes } from '#shared/api.ts';
import { createBundle } from '#shared/create-bundle.ts';
import { Id } from '#shared/ids.ts';
import type { Manifest } from '#shared/manifest.ts';
import { publicKeyPem } from '#shared/trust/keys.ts';
import { generatePrivateKey, signerFromPem } from '#shared/trust/signers.ts';
import { packsMade } from '#test/server/packs.ts';
import { configFor, newFolder, removeFolder } from '#test/server/running.ts';
import { noise } from '#test/shared/transfer/bytes.ts';
import { DEVICE, until } from './harness.ts';
import { startImageDevice } from './slots/image-device.ts';
import { grubRig, OWN_ACCESS } from './slots/selectors/rigs.ts';

const GATEWAY = Id.parse('gateway');
const IMAGE_BYTES = 2_500_000;

const openFleet = async () => {
  const dir = await newFolder();
  const server = await startServer(configFor(join(dir, 'data')));
  onTestFinished(async () => {
    await server.stop();
    await removeFolder(dir);
  });
  const client = openClient({ url: server.httpUrl, token: server.adminToken! });
  const signer = signerFromPem(generatePrivateKey('ed25519'));
  if (!signer.ok) throw new Error(signer.detail);
  await client.call(routes.productCreate, { body: { name: GATEWAY, keys: [publicKeyPem(signer.value.key)] } });

  const publish = async (version: string, image: Buffer): Promise<Manifest> => {
    const [file, out] = [join(dir, `${version}.img`), join(dir, `${version}.sluice`)];
    await writeFile(file, image);
    const created = await createBundle({
      manifest: {
        product: GATEWAY,
        version,
        compatible: Id.parse('gw-test'),
        securityCounter: 1,
        health: { soakMs: 100, deadlineMs: 120_000, intervalMs: 50 },
      },
      artifacts: [{ name: 'rootfs', file, install: { kind: 'image' } }],
      out,
    });
    if (!created.ok) throw new Error(created.detail);
    const steps: PublishSteps = { checking: checkBundle, sending: (_, send) => send(() => {}), again: () => {} };
    await publishRelease(client, { files: [out], signer: signer.value, now: Date.now }, steps);
    const params = { release: `gateway@${version}` };
    await client.call(routes.releaseStage, { params, body: { channel: Id.parse('production') } });
    return created.value.manifest;
  };
  const { tokens } = await client.call(routes.enrolmentTokenCreate, { body: { count: 1 } });
  const publishWithPacks = async (version: string, image: Buffer, packs: number): Promise<void> =>
    packsMade(join(dir, 'data'), await publish(version, image), packs);
  return { url: server.httpUrl, token: tokens[0]!, client, publishWithPacks };
};

test('a second image is made from the one that runs, in its slot, and little is fetched', async () => {
  const fleet = await openFleet();
  const { client } = fleet;
  const first = noise('an image', IMAGE_BYTES);
  const second = Buffer.from(first);
  noise('a change in the middle', 4_000).copy(second, IMAGE_BYTES / 2);
  await fleet.publishWithPacks('1.0.0', first, 1);
  const device = await startImageDevice(fleet, await grubRig(OWN_ACCESS), { slotBytes: IMAGE_BYTES + 4096 });
  const known = async () => (await client.call(routes.deviceList, { query: {} })).items.length;
  await until('it is let in', async () => (await known()) === 1);
  await client.call(routes.cohortCreate, { body: { name: Id.parse('all'), devices: [DEVICE] } });

  const roll = async (version: string) => {
    const body = { release: `gateway@${version}`, cohorts: [{ cohort: Id.parse('all') }] };
    const { id } = await client.call(routes.rolloutCreate, { body });
    const isOver = async () => {
      device.expectAlive();
      return (await client.call(routes.rolloutShow, { params: { rollout: id } })).state === 'completed';
    };
    await until(`${version} runs`, isOver, 180_000, () => device.lines().slice(-12));
    return device.lines().findLast(({ event }) => event === 'artifact-fetched');
  };
  const slotOf = async (file: string) => (await readFile(file)).subarray(0, IMAGE_BYTES);

  expect(await roll('1.0.0')).toMatchObject({ seed: 0 });
  expect(device.booted).toEqual(['a', 'b']);
  expect((await slotOf(device.files.b)).equals(first)).toBe(true);

  // From nothing, and from what the device runs.
  await fleet.publishWithPacks('1.1.0', second, 2);
  const fetched = await roll('1.1.0');
  expect(fetched).toMatchObject({ seed: expect.any(Number), bytesFetched: expect.any(Number) });
  expect((fetched as unknown as { bytesFetched: number }).bytesFetched).toBeLessThan(IMAGE_BYTES / 5);
  expect(device.booted).toEqual(['a', 'b', 'a']);
  expect((await slotOf(device.files.a)).equals(second)).toBe(true);
  // There is no second copy of an image.
  const kept = await readdir(device.dataDir, { recursive: true });
  const sizes = await Promise.all(
    kept.map(async (name) => (await stat(join(device.dataDir, name)).catch(() => ({ size: 0 }))).size),
  );
  expect(Math.max(...sizes)).toBeLessThan(IMAGE_BYTES / 5);
}, 600_000);

import { readFile, rm, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { collectGarbage } from '#server/flow/release/collect-garbage.ts';
import { findPack } from '#server/flow/release/pack-targets.ts';
import { type Packs, type PacksDeps, startPacks } from '#server/flow/release/packs.ts';
import { stageRelease } from '#server/flow/release/stage-release.ts';
import { objectFile } from '#server/store/objects.ts';
import type { PackRecord } from '#server/store/transfer.ts';
import type { Artifact } from '#shared/manifest.ts';
import { PACK_HEADER_BYTES, parsePackHeader } from '#shared/transfer/pack.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { report, running } from '#test/server/store/records.ts';
import { noise } from '#test/shared/transfer/bytes.ts';
import {
  enrolFleet,
  filesOf,
  GATEWAY,
  makeBundle,
  makeProduct,
  must,
  PRODUCTION,
  publish,
  worldOfEachTest,
} from '../world.ts';

const world = worldOfEachTest();
let told: string[];
let packs: Packs;
const start = (more: Partial<PacksDeps> = {}): Packs =>
  startPacks({
    ...world,
    dataDir: join(world.dir, 'objects'),
    bytesMax: 1e9,
    report: {
      made: ({ from, level }) => void told.push(`${from === null ? 'full' : 'delta'} ${level}`),
      failed: (error) => void told.push(`failed: ${String(error)}`),
    },
    ...more,
  });
beforeEach(async () => {
  told = [];
  packs = start();
  must(await makeProduct(world));
});
afterEach(() => packs.stop());

const random = noise('packs', 150_000).toString('latin1');
/** Staged; the version is in it a few times. */
const staged = async (version: string): Promise<Artifact> => {
  const content = [0, 1, 2].map((part) => `${random.slice(part * 50_000, (part + 1) * 50_000)}${version}`).join('');
  must(await publish(world, [await makeBundle(world, version, { content })]));
  must(await stageRelease(world, { product: GATEWAY, version, channel: PRODUCTION, by: 'ada' }));
  return (await world.store.getRelease(GATEWAY, version))!.bundles[0]!.manifest.artifacts[0]!;
};
let seq = 0;
/** The first `count` devices say that they run it. */
const run = async (version: string, count: number): Promise<void> => {
  const { manifestSha256 } = (await world.store.getRelease(GATEWAY, version))!.bundles[0]!;
  const names = Array.from({ length: count }, (_, index) => `gw-${index + 1}`);
  const publicKey = world.ci.key.keyval.public;
  await world.store.saveReports(
    names.map((name) => ({ ...report(name, (seq += 1), { running: running(manifestSha256) }), publicKey })),
  );
};
const made = async (to: Artifact): Promise<PackRecord[]> => world.store.listPacks([to.chunks!.index]);
const settle = async (): Promise<void> => {
  packs.wake();
  await packs.settled();
};

test('a staged release gets a pack from nothing, and one from what the fleet runs, which is made once more at the best level', async () => {
  const old = await staged('1.0.0');
  await enrolFleet(world, 3);
  await run('1.0.0', 3);
  const fresh = await staged('1.1.0');
  await settle();
  expect(told.slice().sort()).toEqual(['delta 19', 'delta 9', 'full 9', 'full 9']);
  const [full, delta] = await made(fresh);
  expect([full?.from, full?.level, delta?.from, delta?.level]).toEqual([null, 9, old.chunks!.index, 19]);
  expect(delta!.bytes).toBeLessThan(full!.bytes / 50);
  const bytes = await readFile(objectFile(join(world.dir, 'objects'), delta!.sha256));
  expect([bytes.length, sha256Hex(bytes)]).toEqual([delta!.bytes, delta!.sha256]);
  expect(parsePackHeader(bytes.subarray(0, PACK_HEADER_BYTES))).toMatchObject({
    to: fresh.chunks!.index,
    from: old.chunks!.index,
  });
  // There is nothing left to do, and what was replaced goes with the garbage one day.
  told.length = 0;
  await settle();
  expect(told).toEqual([]);
});

test('a device is told of the smallest pack that it can use', async () => {
  const old = await staged('1.0.0');
  await enrolFleet(world, 1);
  await run('1.0.0', 1);
  const fresh = await staged('1.1.0');
  await settle();
  const [full, delta] = await made(fresh);
  const to = fresh.chunks!.index;
  const other = sha256Hex('something else');
  expect(await findPack(world, { to, from: [] })).toEqual({
    sha256: full!.sha256,
    bytes: full!.bytes,
    from: null,
    level: 9,
  });
  expect(await findPack(world, { to, from: [other] })).toMatchObject({ from: null });
  world.pass(3 * 3_600_000);
  expect(await findPack(world, { to, from: [other, old.chunks!.index] })).toMatchObject({ sha256: delta!.sha256 });
  expect(await findPack(world, { to: other, from: [] })).toBeNull();
  expect((await made(fresh)).map(({ usedAt }) => usedAt === world.now())).toEqual([false, true]);
});

test('packs beyond the limit are not kept, and making ends all the same', async () => {
  await staged('1.0.0');
  await staged('1.1.0');
  await packs.stop();
  const room = 200_000;
  packs = start({ bytesMax: room });
  await settle();
  const all = [...(await made((await artifactOf('1.0.0'))!)), ...(await made((await artifactOf('1.1.0'))!))];
  expect(all.reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThanOrEqual(room);
  expect(all).toHaveLength(1);
  const kept = new Set(await world.store.listReferencedObjects());
  expect((await filesOf(world)).every((file) => kept.has(file as never))).toBe(true);
  packs = start({ bytesMax: 0 });
  await settle();
});
const artifactOf = async (version: string) =>
  (await world.store.getRelease(GATEWAY, version))?.bundles[0]?.manifest.artifacts[0];

test('stopping in the middle leaves no half of a pack, and the next start makes it', async () => {
  const fresh = await staged('1.0.0');
  packs.wake();
  await packs.stop();
  const referenced = await world.store.listReferencedObjects();
  // Either it was made just in time, or there is nothing of it.
  expect((await filesOf(world)).sort()).toEqual([...referenced].sort());
  packs = start();
  await settle();
  expect(await made(fresh)).toHaveLength(1);
  expect(told.filter((line) => line.startsWith('failed'))).toEqual([]);
});

test('damage on the disk makes no pack, is told, and does not keep other packs from being made', async () => {
  const damaged = await staged('1.0.0');
  const fine = await staged('1.1.0');
  await truncate(objectFile(join(world.dir, 'objects'), damaged.sha256), 100_000);
  await settle();
  expect(told).toHaveLength(2);
  expect(told).toContain('full 9');
  expect(told.find((line) => line.startsWith('failed'))).toContain('no index of');
  expect(await made(damaged)).toEqual([]);
  expect(await made(fine)).toHaveLength(1);
  await rm(objectFile(join(world.dir, 'objects'), fine.chunks!.index));
  expect(await filesOf(world)).toHaveLength(4);
});

test('what a restored backup remembers but does not have is not offered, and made again', async () => {
  const fresh = await staged('1.0.0');
  await settle();
  const [pack] = await made(fresh);
  await world.objects.remove(pack!.sha256);
  expect(await findPack(world, { to: fresh.chunks!.index, from: [] })).toBeNull();
  await packs.stop();
  packs = start();
  await settle();
  expect(await findPack(world, { to: fresh.chunks!.index, from: [] })).toMatchObject({ sha256: pack!.sha256 });
});

test('collecting garbage leaves packs alone, and making them never stops the loop', async () => {
  const fresh = await staged('1.0.0');
  let turns = 0;
  const turning = setInterval(() => (turns += 1), 1);
  await settle();
  clearInterval(turning);
  expect(turns).toBeGreaterThan(5);
  await collectGarbage(world);
  const [pack] = await made(fresh);
  expect(await world.objects.size(pack!.sha256)).toBe(pack!.bytes);
});

/** Where chunks are, and which packs there are: what a store must know for transfers. */
import { describe, expect } from 'vitest';
import type { Store } from '#server/store/store.ts';
import type { PackRecord } from '#server/store/transfer.ts';
import type { OpenStore } from './contract.ts';
import { bundle, digest, enrolFleet, GATEWAY, id, line, metadata, report, running, T0 } from './records.ts';
import { storeTest } from './with-store.ts';

const ARTIFACT = digest(1_500);
const INDEX = digest(3_500);
/** gateway 1.0.0 for gw2 with manifest 500, artifact 1500, and the index 3500 of it. */
const published = async (store: Store): Promise<void> => {
  await store.createProduct(GATEWAY, line('product-created'));
  const made = bundle('1.0.0', 'gw2', 500);
  const artifacts = made.manifest.artifacts.map((artifact) => ({
    ...artifact,
    chunks: { format: 1 as const, index: INDEX, bytes: 51 },
  }));
  await store.acceptBundles([{ ...made, manifest: { ...made.manifest, artifacts } }], metadata(1), []);
};
const pack = (more: Partial<PackRecord> = {}): PackRecord => ({
  to: INDEX,
  from: null,
  level: 9,
  sha256: digest(9_000),
  bytes: 100,
  madeAt: T0,
  usedAt: T0,
  ...more,
});
const chunk = (seed: number, offset = 0) => ({ sha256: digest(seed) as string, offset, bytes: 20_000 });

export const describeTransfer = (open: OpenStore): void => {
  const test = storeTest(open);

  describe('chunks', () => {
    test('a chunk is found in an artifact that holds it, and saving it again changes nothing', async (store) => {
      expect(await store.findChunk(digest(1))).toBeUndefined();
      await store.saveChunks(ARTIFACT, [chunk(1), chunk(2, 20_000)], T0);
      await store.saveChunks(ARTIFACT, [chunk(2, 20_000), chunk(3, 40_000)], T0);
      expect(await store.findChunk(digest(2))).toEqual({ artifact: ARTIFACT, offset: 20_000, bytes: 20_000 });
      expect(await store.findChunk(digest(3))).toEqual({ artifact: ARTIFACT, offset: 40_000, bytes: 20_000 });
    });

    test('chunks of artifacts that no bundle has are forgotten, but not what is just being published', async (store) => {
      await published(store);
      await store.saveChunks(ARTIFACT, [chunk(1)], T0);
      await store.saveChunks(digest(7), [chunk(1), chunk(2)], T0);
      await store.saveChunks(digest(8), [chunk(3)], T0 + 10);
      expect(await store.sweepChunks(T0)).toBe(0);
      expect(await store.sweepChunks(T0 + 5)).toBe(1);
      expect(await store.findChunk(digest(1))).toMatchObject({ artifact: ARTIFACT });
      expect(await store.findChunk(digest(2))).toBeUndefined();
      expect(await store.findChunk(digest(3))).toMatchObject({ artifact: digest(8) });
    });
  });

  describe('packs', () => {
    test('there is one pack for each pair, the newest, and what bundles and packs need may not be swept', async (store) => {
      await published(store);
      expect(await store.listPacks([INDEX])).toEqual([]);
      const better = pack({ level: 19, sha256: digest(9_002), bytes: 90 });
      const delta = pack({ from: digest(3_400), sha256: digest(9_001) });
      for (const one of [pack(), delta, better]) await store.savePack(one);
      expect(await store.listPacks([INDEX, digest(5)])).toEqual([better, delta]);
      expect(await store.listPacks([digest(5)])).toEqual([]);
      expect(await store.listReferencedObjects()).toEqual(
        [ARTIFACT, digest(2_500), INDEX, digest(9_001), digest(9_002)].sort(),
      );
    });

    test('the ones used longest ago go first, and packs to what is not published go anyway', async (store) => {
      await published(store);
      const packs = [1, 2, 3].map((n) => pack({ from: digest(n), sha256: digest(9_000 + n), usedAt: T0 + n }));
      for (const one of packs) await store.savePack(one);
      await store.savePack(pack({ to: digest(5), sha256: digest(9_009), usedAt: T0 + 99 }));
      expect(await store.evictPacks(300)).toEqual([digest(9_009)]);
      await store.notePackUsed(packs[0]!, T0 + 50);
      expect(await store.evictPacks(299)).toEqual([digest(9_002)]);
      expect((await store.listPacks([INDEX])).map(({ from, usedAt }) => [from, usedAt])).toEqual([
        [digest(1), T0 + 50],
        [digest(3), T0 + 3],
      ]);
      expect(await store.evictPacks(0)).toHaveLength(2);
      expect(await store.evictPacks(0)).toEqual([]);
    });

    test('what an object still is to someone else stays', async (store) => {
      await published(store);
      await store.savePack(pack({ sha256: ARTIFACT }));
      expect(await store.evictPacks(0)).toEqual([]);
      expect(await store.listPacks([INDEX])).toEqual([]);
    });
  });

  test('what accepted devices of a kind run is counted, most first', async (store) => {
    await published(store);
    await store.acceptBundles([bundle('1.1.0', 'gw2', 501, 2), bundle('1.1.0', 'gw3', 502, 2)], metadata(2), []);
    const names = ['gw-1', 'gw-2', 'gw-3', 'gw-4', 'gw-5'];
    await enrolFleet(store, names);
    const manifests = [500, 501, 501, 502, 999];
    await store.saveReports(
      names.map((name, index) => report(name, 1, { running: running(digest(manifests[index]!)) })),
    );
    expect(await store.listRunning(id('gateway'), id('gw2'), 10)).toEqual([
      { manifest: digest(501), devices: 2 },
      { manifest: digest(500), devices: 1 },
    ]);
    expect(await store.listRunning(id('gateway'), id('gw2'), 1)).toHaveLength(1);
  });
};

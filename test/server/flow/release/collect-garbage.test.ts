import { readdir, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { expect, test } from 'vitest';
import { collectGarbage, GRACE_MS } from '#server/flow/release/collect-garbage.ts';
import { objectFile } from '#server/store/objects.ts';
import { Sha256 } from '#shared/ids.ts';
import { parseIndex } from '#shared/transfer/chunk-index.ts';
import {
  type BundleFile,
  filesOf,
  GATEWAY,
  makeBundle,
  makeProduct,
  must,
  publish,
  upload,
  worldOfEachTest,
} from '../world.ts';

const world = worldOfEachTest();

const content = (version: string): string => `${version} of a large application; `.repeat(6_000);
const objectsDir = () => join(world.dir, 'objects');
/** As if everything had been written two grace periods ago. */
const age = async (): Promise<void> => {
  const then = new Date(Date.now() - 2 * GRACE_MS);
  const names = (await readdir(objectsDir(), { recursive: true })).map((name) =>
    Sha256.safeParse(name.split('/').at(-1)),
  );
  for (const name of names) if (name.success) await utimes(objectFile(objectsDir(), name.data), then, then);
};

/** Its objects are kept, but the server died before anything was recorded. */
const loseInPublishing = async (bundle: BundleFile): Promise<void> => {
  const lost = must(await upload(world, bundle));
  for (const staged of lost.staged) await world.objects.keep(staged);
  world.uploads.forget(lost.sha256);
};
const artifactOf = async (version: string) =>
  (await world.store.getRelease(GATEWAY, version))!.bundles[0]!.manifest.artifacts[0]!;

test('what nothing refers to is taken away after the grace period, not before; what is published stays forever', async () => {
  await makeProduct(world);
  must(await publish(world, [await makeBundle(world, '1.0.0', { content: content('1.0.0') })]));
  await loseInPublishing(await makeBundle(world, '1.0.1', { content: content('1.0.1') }));
  await collectGarbage(world);
  await collectGarbage(world);
  expect(await filesOf(world)).toHaveLength(4);
  await age();
  await collectGarbage(world);
  const { sha256, chunks } = await artifactOf('1.0.0');
  expect((await filesOf(world)).sort()).toEqual([sha256, chunks!.index].sort());
});

test('a release that is published while garbage is collected lacks nothing, though all of its objects were garbage before', async () => {
  await makeProduct(world);
  for (let round = 0; round < 12; round += 1) {
    const version = `1.0.${round}`;
    const bundle = await makeBundle(world, version, { content: content(version) });
    await loseInPublishing(bundle);
    // So that nothing is spared for having been kept since the last time.
    await collectGarbage(world);
    await age();
    const race = { over: false };
    const publishing = publish(world, [bundle]).finally(() => (race.over = true));
    while (!race.over) await collectGarbage(world);
    must(await publishing);
    await collectGarbage(world);
    await age();
    await collectGarbage(world);

    const { sha256, bytes, chunks } = await artifactOf(version);
    expect(await world.objects.size(sha256)).toBe(bytes);
    const index = await buffer((await world.objects.open(chunks!.index))!.stream);
    const parsed = parseIndex(index, { artifactBytes: bytes });
    const records = parsed.ok ? parsed.records : [];
    expect(records.length).toBeGreaterThan(0);
    for (const record of records) {
      expect(await world.store.findChunk(Sha256.parse(record.sha256))).toMatchObject({ bytes: record.bytes });
    }
  }
});

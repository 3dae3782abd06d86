import { link, mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import type { Keep } from '#agent/config/config.ts';
import type { ChunkedArtifact } from '#agent/transfer/fetch-chunked.ts';
import { openKept } from '#agent/transfer/kept.ts';
import { Sha256 } from '#shared/ids.ts';
import { Artifact } from '#shared/manifest.ts';
import { encodeIndex } from '#shared/transfer/chunk-index.ts';
import { recordsOf } from '#test/shared/transfer/bytes.ts';
import { prose, sha256 } from './rig.ts';

const V1 = Sha256.parse('1'.repeat(64));
const V2 = Sha256.parse('2'.repeat(64));

const openFolder = async (mode: Keep) => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-kept-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const warnings: string[] = [];
  const warn = (...said: unknown[]): void => void warnings.push(String(said[1]));
  const log = { info: () => undefined, warn, error: warn, debug: () => undefined };
  const kept = openKept({ dir: join(dir, 'artifacts'), mode, log });
  const artifactOf = async (seed: string, install: object = { kind: 'tree', compression: 'none' }) => {
    const bytes = prose(seed, 700_000);
    const index = encodeIndex(recordsOf(bytes));
    const file = join(dir, seed);
    await writeFile(file, bytes);
    const artifact = Artifact.parse({
      name: seed,
      bytes: bytes.length,
      sha256: sha256(bytes),
      install,
      chunks: { format: 1, index: sha256(index), bytes: index.length },
    }) as ChunkedArtifact;
    return { bytes, index, file, artifact };
  };
  return { dir, kept, warnings, artifactOf, names: () => readdir(join(dir, 'artifacts')).catch(() => []) };
};

test('what is kept reads as it was, whichever range is asked for', async () => {
  for (const mode of ['raw', 'zstd'] as const) {
    const { kept, artifactOf } = await openFolder(mode);
    const { bytes, ...what } = await artifactOf('app');
    await kept.keep({ manifest: V1, ...what });
    const [seed] = await kept.seeds([V1]);
    onTestFinished(() => seed!.close());
    expect(seed!.index).toBe(what.artifact.chunks.index);
    for (const [offset, length] of [
      [0, 1],
      [0, 262_144],
      [65_000, 70_000],
      [699_999, 1],
      [437_856, 262_144],
      [300_000, 100_000],
    ] as const)
      expect((await seed!.read(offset, length)).equals(bytes.subarray(offset, offset + length))).toBe(true);
    await expect(seed!.read(699_999, 2)).rejects.toThrow(RangeError);
  }
});

test('compressed it takes less room, and with none nothing is kept', async () => {
  const { dir, kept, artifactOf } = await openFolder('zstd');
  const { bytes, ...what } = await artifactOf('app');
  await kept.keep({ manifest: V1, ...what });
  expect((await stat(join(dir, 'artifacts', `${what.artifact.sha256}.zstd`))).size).toBeLessThan(bytes.length / 1.3);
  const none = await openFolder('none');
  await none.kept.keep({ manifest: V1, ...(await none.artifactOf('app')) });
  expect(await none.names()).toEqual([]);
});

test('a single file that a slot holds is linked, not copied', async () => {
  const { dir, kept, artifactOf } = await openFolder('zstd');
  const what = await artifactOf('app', { kind: 'file', path: 'app.bin' });
  await mkdir(join(dir, 'slot'));
  await link(what.file, join(dir, 'slot', 'app.bin'));
  await kept.keep({ manifest: V1, ...what });
  const there = await stat(join(dir, 'artifacts', `${what.artifact.sha256}.raw`));
  expect(there.ino).toBe((await stat(join(dir, 'slot', 'app.bin'))).ino);
});

test('of a slot that is the artifact itself only the index is kept', async () => {
  const { kept, artifactOf, names } = await openFolder('none');
  const what = await artifactOf('image', { kind: 'image' });
  await kept.keep({ manifest: V1, ...what, file: null });
  expect((await kept.indexOf(what.artifact))?.equals(what.index)).toBe(true);
  expect(new Set((await names()).map((name) => name.split('.')[1]))).toEqual(new Set(['index', 'json']));
  expect(await kept.seeds([V1])).toEqual([]);
});

test('what no slot needs any more is removed, and what two versions share stays', async () => {
  const { kept, artifactOf, names } = await openFolder('raw');
  const [shared, first] = [await artifactOf('shared'), await artifactOf('first')];
  await kept.keep({ manifest: V1, ...shared });
  await kept.keep({ manifest: V1, ...first });
  await kept.keep({ manifest: V2, ...shared });
  await kept.prune([V2]);
  expect((await names()).every((name) => name.startsWith(shared.artifact.sha256))).toBe(true);
  const seeds = await kept.seeds([V2, V1]);
  for (const seed of seeds) await seed.close();
  expect(seeds.map(({ index }) => index)).toEqual([shared.artifact.chunks.index]);
  await kept.prune([]);
  expect(await names()).toEqual([]);
});

test('what is damaged or torn is no seed, and no failure', async () => {
  const { dir, kept, artifactOf } = await openFolder('zstd');
  const what = await artifactOf('app');
  const file = (kind: string): string => join(dir, 'artifacts', `${what.artifact.sha256}.${kind}`);
  for (const [kind, damage] of [
    ['index', 50],
    ['lengths', 3],
    ['json', 20],
  ] as const) {
    await kept.keep({ manifest: V1, ...what });
    await truncate(file(kind), damage);
    expect(await kept.seeds([V1])).toEqual([]);
    await kept.prune([]);
  }
  await kept.keep({ manifest: V1, ...what });
  await writeFile(
    file('zstd'),
    (await readFile(file('zstd'))).map((byte) => byte ^ 0x55),
  );
  const [seed] = await kept.seeds([V1]);
  await expect(seed!.read(0, 100_000)).rejects.toThrow();
  await seed!.close();
});

test('what cannot be kept is left, and said', async () => {
  const { dir, kept, artifactOf, warnings, names } = await openFolder('zstd');
  const what = await artifactOf('app');
  await kept.keep({ manifest: V1, ...what, file: join(dir, 'nowhere') });
  expect(warnings.join()).toMatch(/not kept.*ENOENT/);
  expect(await names()).toEqual([]);
});

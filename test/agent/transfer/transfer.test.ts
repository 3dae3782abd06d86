import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { FreeBytes } from '#agent/disk/room.ts';
import type { Slots, SlotsView } from '#agent/domain/slots.ts';
import type { Progress } from '#agent/transfer/last-transfer.ts';
import { openTransfer } from '#agent/transfer/transfer.ts';
import { Sha256 } from '#shared/ids.ts';
import { Artifact, Manifest } from '#shared/manifest.ts';
import { edited, openRig, prose, sha256 } from './rig.ts';

const V1 = prose('transfer v1', 900_000);
const V2 = edited(V1, 3);
const RUNNING = Sha256.parse('1'.repeat(64));

const manifestOf = (artifact: Artifact): Manifest =>
  Manifest.parse({
    format: 1,
    product: 'app',
    version: '2.0.0',
    compatible: 'gw',
    securityCounter: 0,
    artifacts: [artifact],
  });

/** `image`: a pair whose slots are files, of which the active one holds V1. */
const openSite = async (options: { image?: boolean; keep?: 'raw' | 'zstd' | 'none' } = {}) => {
  const install = options.image === true ? { kind: 'image' } : { kind: 'tree', compression: 'none' };
  const [first, second] = [await openRig(V1), await openRig(V2, { old: V1 })];
  const [v1, v2] = [first, second].map(({ artifact }) => Artifact.parse({ ...artifact, install }));
  const data = join(second.dir, 'data');
  await mkdir(data);
  const [slotA, slotB] = [join(second.dir, 'a'), join(second.dir, 'b')];
  await writeFile(slotA, V1);
  await writeFile(slotB, Buffer.alloc(2_000_000));
  const running = { product: 'app', version: '1.0.0', manifest: RUNNING, slot: 'a' as const };
  const view = {
    active: 'a',
    trial: null,
    slots: { a: { state: 'bootable', running, securityCounter: 0 }, b: { state: 'unbootable' } },
  } as unknown as SlotsView;
  const slots: Pick<Slots, 'inspect' | 'place' | 'seeds'> = {
    inspect: async () => ({ ok: true, view }),
    ...(options.image === true
      ? { place: async () => ({ ok: true as const, file: slotB }), seeds: async () => [{ file: slotA, artifact: v1! }] }
      : {}),
  };
  const folders = { data, downloads: join(data, 'downloads') };
  const progress: Progress[] = [];
  const openOn = (rig: typeof first, freeBytes?: FreeBytes) =>
    openTransfer({
      config: {
        keepArtifacts: options.keep ?? 'zstd',
        metered: { policy: 'allow', delayMs: 0, bytesFree: 0 },
      },
      folders,
      slots,
      http: { get: rig.get, getJson: rig.getJson, distrustCache: () => undefined },
      pause: async () => undefined,
      now: Date.now,
      log: { info: () => undefined, warn: () => undefined, error: () => undefined, debug: () => undefined },
      onProgress: (one) => void progress.push(one),
      ...(freeBytes === undefined ? {} : { freeBytes }),
    });
  const request = (artifact: Artifact) => ({
    slot: 'b' as const,
    manifest: manifestOf(artifact),
    elapsedMs: 0,
    expires: Number.MAX_SAFE_INTEGER,
  });
  return { first, second, v1: v1!, v2: v2!, data, slotB, folders, progress, openOn, request };
};
const NEVER = new AbortController().signal;

test('what was installed is kept, and makes the next version cheap; what it costs is told', async () => {
  for (const keep of ['raw', 'zstd'] as const) {
    const { first, second, v1, v2, folders, data, progress, openOn, request } = await openSite({ keep });
    const before = openOn(first);
    expect(await before.fetch(request(v1), NEVER)).toMatchObject({ ok: true });
    await before.keep(RUNNING, manifestOf(v1));
    progress.length = 0;
    const after = openOn(second);
    expect(await after.fetch(request(v2), NEVER)).toMatchObject({ ok: true });
    expect(progress.at(-1)).toMatchObject({ bytesDone: V2.length, bytesTotal: V2.length });
    expect(progress.at(-1)!.bytesFetched).toBeLessThan(V2.length / 20);
    expect((await readFile(join(folders.downloads, v2.sha256))).equals(V2)).toBe(true);
    expect(await after.fetched(request(v2))).toEqual([{ name: 'app', file: join(folders.downloads, v2.sha256) }]);
    // What no slot holds is forgotten.
    await after.keep(Sha256.parse('2'.repeat(64)), undefined);
    expect((await readdir(join(data, 'artifacts'))).every((name) => name.startsWith(v1.sha256))).toBe(true);
  }
});

test('an image is assembled in its slot, from the slot that runs, and only its index is kept', async () => {
  const { first, second, v1, v2, data, slotB, progress, openOn, request } = await openSite({
    image: true,
    keep: 'none',
  });
  await openOn(first).fetch(request(v1), NEVER);
  await openOn(first).keep(RUNNING, manifestOf(v1));
  await writeFile(slotB, Buffer.alloc(2_000_000));
  progress.length = 0;
  const transfer = openOn(second);
  expect(await transfer.fetch(request(v2), NEVER)).toMatchObject({ ok: true });
  expect(sha256((await readFile(slotB)).subarray(0, V2.length))).toBe(v2.sha256);
  expect(progress.at(-1)!.bytesFetched).toBeLessThan(V2.length / 20);
  expect(await transfer.fetched(request(v2))).toEqual([{ name: 'app', file: slotB }]);
  expect((await readdir(join(data, 'artifacts'))).map((name) => name.split('.')[1])).not.toContain('raw');
});

test('what does not fit is refused before anything is fetched; what is kept gives way first, and where that is enough it goes on', async () => {
  for (const [freed, ends] of [
    [0, { ok: false, code: 'NO_SPACE' }],
    [10_000_000, { ok: true }],
  ] as const) {
    const { first, second, v1, v2, data, openOn, request } = await openSite();
    const before = openOn(first);
    await before.fetch(request(v1), NEVER);
    await before.keep(RUNNING, manifestOf(v1));
    const keptNow = (): Promise<string[]> => readdir(join(data, 'artifacts'));
    expect(await keptNow()).not.toEqual([]);
    const full = openOn(second, async () => 5_000_000 + ((await keptNow()).length === 0 ? freed : 0));
    expect(await full.fetch(request(v2), NEVER)).toMatchObject(ends);
    expect(await keptNow()).toEqual([]);
    expect(second.asked.length > 0).toBe(ends.ok);
  }
});

test('a tree that does not fit when it is unpacked is refused before anything is fetched, with all figures', async () => {
  const { second, v2, openOn, request } = await openSite();
  const install = { kind: 'tree', compression: 'zstd', unpacked: { bytes: 400_000_000, entries: 10 } } as const;
  const manifest = { ...manifestOf(v2), artifacts: [{ ...v2, install }] };
  const wanted = v2.bytes + 400_000_000 + 10 * 4096;
  const fetchWith = (free: number) => openOn(second, async () => free).fetch({ ...request(v2), manifest }, NEVER);
  expect(await fetchWith(120_000_000)).toEqual({
    ok: false,
    code: 'NO_SPACE',
    message: `${wanted} bytes are needed and 120000000 are free, of which 4194304 stay free for everything else`,
  });
  expect(second.asked).toEqual([]);
  expect(await fetchWith(wanted + 4_194_304)).toMatchObject({ ok: true });
});

test('a download that is stopped is no failure of its own', async () => {
  const { second, v2, openOn, request } = await openSite();
  const result = await openOn(second).fetch(request(v2), AbortSignal.abort());
  expect(result).toMatchObject({ ok: false, code: 'FETCH_FAILED' });
  expect(second.asked).toEqual([]);
});

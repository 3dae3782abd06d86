import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, expect, test } from 'vitest';
import { openUploads } from '#server/flow/release/accept-upload.ts';
import type { Objects } from '#server/store/objects.ts';
import { createBundle } from '#shared/create-bundle.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import { type BundleFile, bodyOf, filesOf, makeBundle, must, upload, worldOfEachTest } from '../world.ts';

const world = worldOfEachTest({ countMax: 2, bytesMax: 1_000_000, keepMs: 3_600_000 });
let bundle: BundleFile;
beforeEach(async () => {
  bundle = await makeBundle(world, '1.0.0');
});

const digestOf = (bytes: Uint8Array): Sha256 => Sha256.parse(createHash('sha256').update(bytes).digest('hex'));
const send = (bytes: Uint8Array, sha256 = digestOf(bytes)) =>
  world.uploads.accept({ sha256, body: bodyOf(bytes), by: 'ci' });

test('a whole bundle waits to be published, with its manifest read', async () => {
  const result = await upload(world, bundle);
  expect(result).toMatchObject({
    ok: true,
    value: { bytes: bundle.bytes.length, manifest: { product: 'gateway', version: '1.0.0' } },
  });
  expect(world.uploads.get(bundle.sha256)?.manifestBytes).toEqual(bundle.manifestBytes);
});

test('a body that is not what the URL names is refused, and leaves nothing', async () => {
  const other = digestOf(Buffer.from('something else'));
  expect(await send(bundle.bytes, other)).toMatchObject({ ok: false, code: 'digest-mismatch' });
  expect(await filesOf(world)).toEqual([]);
  expect(world.uploads.get(other)).toBeUndefined();
});

test('one flipped byte anywhere in the bundle is refused, and leaves nothing', async () => {
  for (let at = 3; at < bundle.bytes.length; at += 97) {
    const bytes = Buffer.from(bundle.bytes);
    bytes[at]! ^= 1;
    const result = await send(bytes);
    expect(result.ok, `byte ${at}`).toBe(false);
  }
  expect(await filesOf(world)).toEqual([]);
});

test('a bundle that is cut short anywhere is refused, and leaves nothing', async () => {
  for (const bytes of [0, 100, 512, 1500, bundle.bytes.length - 600, bundle.bytes.length - 1]) {
    expect(await send(bundle.bytes.subarray(0, bytes)), `${bytes} bytes`).toMatchObject({ ok: false });
  }
  expect(await filesOf(world)).toEqual([]);
});

test('a connection that breaks leaves nothing', async () => {
  async function* broken(): AsyncGenerator<Uint8Array> {
    yield bundle.bytes.subarray(0, bundle.bytes.length - 1100);
    throw new Error('aborted');
  }
  await expect(world.uploads.accept({ sha256: bundle.sha256, body: broken(), by: 'ci' })).rejects.toThrow('aborted');
  expect(await filesOf(world)).toEqual([]);
});

test('a refused body is not closed, so that the sender still gets the answer', async () => {
  let closed = false;
  async function* body(): AsyncGenerator<Uint8Array> {
    try {
      yield Buffer.alloc(2000, 7);
      yield Buffer.alloc(2000, 7);
    } finally {
      closed = true;
    }
  }
  expect(await world.uploads.accept({ sha256: bundle.sha256, body: body(), by: 'ci' })).toMatchObject({
    ok: false,
    code: 'bundle-invalid',
  });
  expect(closed).toBe(false);
});

test('the same bundle uploaded twice waits once', async () => {
  await upload(world, bundle);
  expect(await upload(world, bundle)).toMatchObject({ ok: true });
  expect(await filesOf(world)).toHaveLength(1);
});

test('an upload that no one publishes is forgotten after an hour, its files too', async () => {
  await upload(world, bundle);
  world.pass(3_599_999);
  expect(await world.uploads.expire()).toBe(0);
  world.pass(1);
  expect(await world.uploads.expire()).toBe(1);
  expect(world.uploads.get(bundle.sha256)).toBeUndefined();
  expect(await filesOf(world)).toEqual([]);
});

test('only so many uploads may wait', async () => {
  await upload(world, bundle);
  await upload(world, await makeBundle(world, '1.0.1'));
  expect(await upload(world, await makeBundle(world, '1.0.2'))).toMatchObject({ ok: false, code: 'rate-limited' });
  world.pass(3_600_000);
  await world.uploads.expire();
  expect(await upload(world, await makeBundle(world, '1.0.2'))).toMatchObject({ ok: true });
});

test('only so many bytes may wait, and what is forgotten makes room', async () => {
  const large = await makeBundle(world, '2.0.0', { content: 'x'.repeat(600_000) });
  const another = await makeBundle(world, '2.0.1', { content: 'y'.repeat(600_000) });
  expect(await upload(world, large)).toMatchObject({ ok: true });
  expect(await upload(world, another)).toMatchObject({ ok: false, code: 'insufficient-storage' });
  await world.uploads.discard(large.sha256);
  expect(await upload(world, another)).toMatchObject({ ok: true });
});

/** A bundle that arrives in pieces of 100 bytes, `gapMs` apart, at a server that needs `writeMs` for each. */
const trickle = async (gapMs: number, writeMs: number) => {
  let time = 0;
  async function* body(): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < bundle.bytes.length; at += 100) {
      time += gapMs;
      yield bundle.bytes.subarray(at, at + 100);
    }
  }
  async function* slowDisk(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of source) {
      time += writeMs;
      yield chunk;
    }
  }
  const objects: Objects = {
    ...world.objects,
    stage: (source, limit) => world.objects.stage(slowDisk(source), limit),
  };
  const pace = { limit: { bytesPerSecondMin: 1_000, windowMs: 500 }, monotonic: () => time };
  const uploads = openUploads({ objects, now: world.now, pace });
  return uploads.accept({ sha256: bundle.sha256, body: body(), by: 'ci' });
};

test('an upload that trickles is refused with the pace that it should keep, and leaves nothing', async () => {
  expect(await trickle(101, 0)).toMatchObject({
    ok: false,
    code: 'too-slow',
    detail: expect.stringMatching(/990 bytes a second over 1 s; at least 1000/),
  });
  expect(await filesOf(world)).toEqual([]);
});

test('an upload that keeps the pace is taken, however long the disk takes', async () => {
  expect(await trickle(100, 60_000)).toMatchObject({ ok: true });
});

test('an artifact whose chunk index is not that of its bytes is refused, and leaves nothing', async () => {
  const big = await makeBundle(world, '1.0.0', { content: 'a large application '.repeat(10_000) });
  const manifest = big.manifestBytes.toString();
  const [index] = /(?<="index":")[0-9a-f]{64}/.exec(manifest) ?? [];
  const bytes = Buffer.from(big.bytes);
  bytes.write('0'.repeat(64), bytes.indexOf(index!));
  expect(await send(bytes)).toMatchObject({ ok: false, code: 'chunks-mismatch' });
  expect(await filesOf(world)).toEqual([]);
  // As it was made, it is fine: the artifact waits, and its index with it.
  expect(await send(big.bytes)).toMatchObject({ ok: true, value: { manifest: { version: '1.0.0' } } });
  expect(world.uploads.get(big.sha256)?.staged.map(({ sha256 }) => sha256)).toContain(index);
});

test('a tree that is not what its manifest says is refused, and leaves nothing behind', async () => {
  const work = await mkdtemp(join(world.dir, 'tree-'));
  await mkdir(join(work, 'tree'));
  await writeFile(join(work, 'tree', 'app'), 'the application');
  const out = join(work, 'out.sluice');
  const manifest = { product: Id.parse('gateway'), version: '1.0.0', compatible: Id.parse('gw2'), securityCounter: 0 };
  must(await createBundle({ manifest, artifacts: [{ name: 'app', folder: join(work, 'tree') }], out }));
  const good = await readFile(out, 'latin1');
  const changed = good.replace('"unpacked":{"bytes":15,"entries":1}', '"unpacked":{"bytes":15,"entries":2}');
  expect(changed).not.toBe(good);
  const why = 'unpacks to 15 bytes in 1 entries; its manifest says 15 in 2';
  expect(await send(Buffer.from(changed, 'latin1'))).toMatchObject({
    ok: false,
    code: 'bundle-invalid',
    detail: expect.stringContaining(why),
  });
  expect(await filesOf(world)).toEqual([]);
  expect(await send(Buffer.from(good, 'latin1'))).toMatchObject({ ok: true });
});

import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, open, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Objects, openObjects, refusalOf, type StagedObject } from '#server/store/objects.ts';
import { Sha256 } from '#shared/ids.ts';

let dir = '';
let objects: Objects;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'sluice-objects-'));
  objects = await openObjects(dir);
});
afterEach(async () => rm(dir, { recursive: true }));

const sha256Of = (bytes: Uint8Array): Sha256 => Sha256.parse(createHash('sha256').update(bytes).digest('hex'));
const chunks = async function* (bytes: Uint8Array, size = 1000): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
};
const stage = async (bytes: Uint8Array, bytesMax = 1_000_000): Promise<StagedObject> => {
  const staged = await objects.stage(chunks(bytes), { bytesMax });
  if (!staged.ok) throw new Error(staged.detail);
  return staged.value;
};
const keep = async (bytes: Uint8Array): Promise<Sha256> => {
  const staged = await stage(bytes);
  await objects.keep(staged);
  return staged.sha256;
};
const read = async (sha256: Sha256, range?: { start: number; end: number }): Promise<Buffer | undefined> => {
  const opened = await objects.open(sha256, range);
  return opened && buffer(opened.stream);
};
const stagedFiles = (): Promise<string[]> => readdir(join(dir, 'staging'));

test('bytes become an object under their digest, byte for byte', async () => {
  const bytes = randomBytes(10_500);
  const staged = await stage(bytes);
  expect(staged).toMatchObject({ sha256: sha256Of(bytes), bytes: 10_500 });
  expect(await objects.size(staged.sha256)).toBeUndefined();
  await objects.keep(staged);
  expect(await objects.size(staged.sha256)).toBe(10_500);
  expect(await read(staged.sha256)).toEqual(bytes);
  expect(existsSync(join(dir, 'objects', staged.sha256.slice(0, 2), staged.sha256))).toBe(true);
  expect(await stagedFiles()).toEqual([]);
});

test('an object of no bytes is an object', async () => {
  const sha256 = await keep(Buffer.alloc(0));
  expect(await objects.size(sha256)).toBe(0);
  expect(await read(sha256)).toEqual(Buffer.alloc(0));
});

test('keeping the same bytes again is fine, staged once or twice', async () => {
  const bytes = randomBytes(100);
  const [first, second] = [await stage(bytes), await stage(bytes)];
  await objects.keep(first);
  await objects.keep(first);
  await objects.keep(second);
  expect(await read(first.sha256)).toEqual(bytes);
  expect(await stagedFiles()).toEqual([]);
});

test('keeping heals an object that was damaged on disk', async () => {
  const bytes = randomBytes(100);
  const sha256 = await keep(bytes);
  await writeFile(join(dir, 'objects', sha256.slice(0, 2), sha256), 'rotten');
  await keep(bytes);
  expect(await read(sha256)).toEqual(bytes);
});

test('a range holds its first and its last byte', async () => {
  const bytes = randomBytes(5000);
  const sha256 = await keep(bytes);
  expect(await read(sha256, { start: 0, end: 0 })).toEqual(bytes.subarray(0, 1));
  expect(await read(sha256, { start: 100, end: 4999 })).toEqual(bytes.subarray(100));
  for (const range of [
    { start: 0, end: 5000 },
    { start: 10, end: 9 },
    { start: -1, end: 3 },
  ])
    await expect(objects.open(sha256, range)).rejects.toThrow(RangeError);
});

test('what is not there is undefined, and so is what is no digest', async () => {
  const missing = sha256Of(Buffer.from('missing'));
  expect(await objects.open(missing)).toBeUndefined();
  expect(await objects.size(missing)).toBeUndefined();
  for (const name of ['../../etc/passwd', missing.toUpperCase(), '']) {
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- what a caller that forgot to parse would do
    const unparsed = name as Sha256;
    expect(await objects.open(unparsed)).toBeUndefined();
    expect(await objects.size(unparsed)).toBeUndefined();
  }
});

test('too many bytes are refused at the limit, and leave nothing behind', async () => {
  let asked = 0;
  const endless = async function* (): AsyncGenerator<Uint8Array> {
    for (;;) {
      asked += 1;
      yield new Uint8Array(1000);
    }
  };
  expect(await objects.stage(endless(), { bytesMax: 4500 })).toMatchObject({ ok: false, code: 'too-large' });
  expect(asked).toBe(5);
  expect(await stagedFiles()).toEqual([]);
  expect(await objects.stage(chunks(new Uint8Array(4500)), { bytesMax: 4500 })).toMatchObject({ ok: true });
});

test('bytes that are not what was announced are refused, and leave nothing behind', async () => {
  const bytes = randomBytes(100);
  const wrong = sha256Of(Buffer.from('something else'));
  const refused = await objects.stage(chunks(bytes), { bytesMax: 1000, sha256: wrong });
  expect(refused).toMatchObject({ ok: false, code: 'digest-mismatch' });
  expect(await stagedFiles()).toEqual([]);
  const right = await objects.stage(chunks(bytes), { bytesMax: 1000, sha256: sha256Of(bytes) });
  expect(right).toMatchObject({ ok: true });
});

test('an upload that breaks off leaves nothing behind, and its error reaches the caller', async () => {
  const broken = async function* (): AsyncGenerator<Uint8Array> {
    yield randomBytes(100);
    throw new Error('socket hang up');
  };
  await expect(objects.stage(broken(), { bytesMax: 1000 })).rejects.toThrow('socket hang up');
  expect(await stagedFiles()).toEqual([]);
});

test('dropped bytes are gone', async () => {
  const staged = await stage(randomBytes(100));
  await objects.drop(staged);
  await objects.drop(staged);
  expect(await stagedFiles()).toEqual([]);
  expect(await objects.size(staged.sha256)).toBeUndefined();
});

test('a sweep removes what no one needs, and only that', async () => {
  const [needed, unneeded] = [await keep(randomBytes(10)), await keep(randomBytes(20))];
  await objects.sweep(new Set([needed, unneeded]));
  const staged = await stage(randomBytes(30));
  await writeFile(join(dir, 'staging', 'left-by-a-crash'), 'x');
  await writeFile(join(dir, 'objects', 'README'), 'not ours');
  expect(await objects.sweep(new Set([needed]))).toBe(2);
  expect(await objects.size(needed)).toBe(10);
  expect(await objects.size(unneeded)).toBeUndefined();
  await objects.keep(staged);
  expect(await objects.size(staged.sha256)).toBe(30);
});

test('a sweep spares what was kept since the one before, whose record may be in the making', async () => {
  const sha256 = await keep(randomBytes(10));
  expect(await objects.sweep(new Set())).toBe(0);
  expect(await objects.size(sha256)).toBe(10);
  expect(await objects.sweep(new Set())).toBe(1);
  expect(await objects.size(sha256)).toBeUndefined();
});

test('what another process left staged is swept, and objects are found again', async () => {
  const sha256 = await keep(randomBytes(10));
  await stage(randomBytes(20));
  objects = await openObjects(dir);
  expect(await objects.size(sha256)).toBe(10);
  expect(await objects.sweep(new Set([sha256]))).toBe(1);
  expect(await stagedFiles()).toEqual([]);
});

test.skipIf(!existsSync('/dev/full'))('a full disk is a refusal, any other failure is not', async () => {
  const full = await open('/dev/full', 'w');
  const noSpace: unknown = await full.writeFile('x').catch((error: unknown) => error);
  await full.close();
  expect(refusalOf(noSpace)).toMatchObject({ ok: false, code: 'insufficient-storage' });
  const missing: unknown = await open(join(dir, 'missing'), 'r').catch((error: unknown) => error);
  expect(refusalOf(missing)).toBeUndefined();
});

test('a file that someone else makes becomes an object like one that arrived, or nothing at all', async () => {
  const bytes = randomBytes(3_000);
  const made = await objects.produce(async (file) => {
    await writeFile(file, bytes);
    return { sha256: sha256Of(bytes), bytes: bytes.length };
  });
  if (!made.ok) throw new Error(made.detail);
  expect(await stagedFiles()).toHaveLength(1);
  await objects.keep(made.value);
  expect(await read(made.value.sha256)).toEqual(bytes);
  const failing = objects.produce(async (file) => {
    await writeFile(file, 'half');
    throw new Error('killed');
  });
  await expect(failing).rejects.toThrow('killed');
  const full = objects.produce(() => Promise.reject(Object.assign(new Error('full'), { code: 'ENOSPC' })));
  expect(await full).toMatchObject({ ok: false, code: 'insufficient-storage' });
  expect(await stagedFiles()).toEqual([]);
});

test('what nothing refers to is spared until it is old enough, and removed at once when asked to', async () => {
  const [old, young, derived] = [await keep(randomBytes(10)), await keep(randomBytes(11)), await keep(randomBytes(12))];
  await objects.sweep(new Set(), 60_000);
  const then = new Date(Date.now() - 120_000);
  await utimes(join(dir, 'objects', old.slice(0, 2), old), then, then);
  expect(await objects.sweep(new Set(), 60_000)).toBe(1);
  expect([await objects.size(old), await objects.size(young)]).toEqual([undefined, 11]);
  const opened = await objects.open(derived);
  await objects.remove(derived);
  await objects.remove(derived);
  expect(await objects.size(derived)).toBeUndefined();
  // Its reader reads on.
  expect(await buffer(opened!.stream)).toHaveLength(12);
});

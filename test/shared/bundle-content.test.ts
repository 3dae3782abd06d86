import { chmod, link, mkdir, mkdtemp, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import * as fc from 'fast-check';
import { type Header, pack } from 'tar-stream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openTreeWriter } from '#agent/disk/tree-writer.ts';
import { unpackTree } from '#agent/disk/unpack.ts';
import { openContentCheck } from '#shared/bundle-content.ts';
import { type ArtifactSource, createBundle } from '#shared/create-bundle.ts';
import { Compatible, Id } from '#shared/ids.ts';
import type { InstallKind } from '#shared/manifest.ts';
import { openTreeMap } from '#shared/tree-map.ts';
import { scanTree } from '#shared/tree-tar.ts';

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'sluice-content-'));
});
afterAll(() => rm(root, { recursive: true, force: true }));
let made = 0;
const fresh = (): string => join(root, `made-${made++}`);
const put = async (bytes: Uint8Array | string, mode = 0o644): Promise<string> => {
  const file = fresh();
  await writeFile(file, bytes);
  await chmod(file, mode);
  return file;
};

type Entry = Partial<Header> & { name: string; body?: string };
const tarOf = async (entries: Entry[]): Promise<Buffer> => {
  const tar = pack();
  for (const { body, ...header } of entries) tar.entry(header, body ?? '');
  tar.finalize();
  const pieces: Uint8Array[] = [];
  for await (const piece of tar) pieces.push(piece as Uint8Array);
  return Buffer.concat(pieces);
};
const tree = async (name: string, entries: Entry[]): Promise<ArtifactSource> => ({
  name,
  file: await put(await tarOf(entries)),
  install: { kind: 'tree', compression: 'none' },
});
const file = async (name: string, path: string): Promise<ArtifactSource> => ({
  name,
  file: await put(name),
  install: { kind: 'file', path },
});
const create = (artifacts: ArtifactSource[], more: object = {}) =>
  createBundle({
    manifest: {
      product: Id.parse('gateway'),
      version: '1.0.0',
      compatible: Compatible.parse('gw'),
      securityCounter: 0,
      ...more,
    },
    artifacts,
    out: fresh(),
  });

const A: Entry = { name: 'a', body: 'x' };
test.each<[string, () => Promise<ArtifactSource[]>, RegExp]>([
  ['a file below a file', async () => [await file('one', 'a'), await file('two', 'a/b')], /"a\/b" lies under "a"/],
  ['a file above a file', async () => [await file('one', 'a/b'), await file('two', 'a')], /"a" comes twice/],
  ['a file twice', async () => [await file('one', 'a'), await file('two', 'a')], /two: "a" comes twice/],
  [
    'a tree and a file at one path',
    async () => [await tree('one', [A]), await file('two', 'a')],
    /artifact two: "a" comes twice/,
  ],
  [
    'a file and a tree at one path',
    async () => [await file('one', 'a'), await tree('two', [A])],
    /artifact two: .*"a" comes twice/,
  ],
  [
    'a file below a link of a tree',
    async () => [await tree('one', [{ name: 'l', type: 'symlink', linkname: 'd' }]), await file('two', 'l/b')],
    /"l\/b" lies under "l", which is a link/,
  ],
  ['two equal trees', async () => [await tree('one', [A]), await tree('two', [A])], /same tree as one|comes twice/],
  ['a path twice in one tree', async () => [await tree('one', [A, A])], /"a" comes twice/],
  ['a path that climbs', async () => [await tree('one', [{ name: '../a' }])], /not a plain relative path/],
  ['an absolute path', async () => [await tree('one', [{ name: '/a' }])], /not a plain relative path/],
  [
    'a link that leaves the tree',
    async () => [await tree('one', [{ name: 'l', type: 'symlink', linkname: '../../etc' }])],
    /leaves the tree/,
  ],
  [
    'a hard link',
    async () => [await tree('one', [A, { name: 'b', type: 'link', linkname: 'a' }])],
    /"b" is a hard link/,
  ],
  ['a device', async () => [await tree('one', [{ name: 'null', type: 'character-device' }])], /which no device gets/],
  [
    'a sparse file in PAX form',
    async () => [await tree('one', [{ name: 'a', body: 'x', pax: { 'GNU.sparse.major': '1' } }])],
    /stored as a sparse file/,
  ],
  ['a tree of nothing', async () => [await tree('one', [])], /artifact one: there is nothing in the tree/],
  ['a tree of no bytes', async () => [{ ...(await tree('one', [])), file: await put('') }], /nothing in the tree/],
  ['a file above the slot', async () => [await file('one', '../a')], /artifact one: path: must not contain . or ../],
  ['a file at an absolute path', async () => [await file('one', '/a')], /artifact one: path: must be a relative path/],
  ['a name that cannot be a name', async () => [await file('o/ne', 'a')], /name: must be 1 to 64 letters/],
  ['a name that is too long', async () => [await tree('one', [{ name: 'n'.repeat(256) }])], /longer than 255 bytes/],
  [
    'an image of no bytes',
    async () => [{ name: 'os', file: await put(''), install: { kind: 'image' } }],
    /an image cannot be empty/,
  ],
  [
    'nothing for an installer',
    async () => [{ name: 'os', file: await put(''), install: { kind: 'delegate', handler: 'rauc' } }],
    /what an installer installs cannot be empty/,
  ],
])('a bundle with %s is refused when it is made, and it is said where', async (_, artifacts, why) => {
  expect(await create(await artifacts())).toMatchObject({ ok: false, detail: expect.stringMatching(why) });
});

test.each<[string, 'none' | 'gzip' | 'zstd', (tar: Buffer) => Buffer]>([
  ['damaged', 'none', (tar) => Buffer.concat([Buffer.alloc(512, 7), tar])],
  ['cut short', 'none', (tar) => tar.subarray(0, 700)],
  ['not compressed as it is said to be', 'zstd', (tar) => gzipSync(tar)],
  ['compressed, but said not to be', 'none', (tar) => zstdCompressSync(tar)],
])('a tree that is %s is refused when the bundle is made', async (_, compression, spoil) => {
  const content = spoil(await tarOf([{ name: 'a', body: 'x'.repeat(2000) }]));
  const source = { name: 'app', file: await put(content), install: { kind: 'tree' as const, compression } };
  expect(await create([source])).toMatchObject({
    ok: false,
    detail: expect.stringContaining('cannot be read as a tar'),
  });
});

test('an agent of its own that is in no artifact is refused', async () => {
  const agent = { path: 'agent.mjs' };
  expect(await create([await tree('one', [A])], { agent })).toMatchObject({
    detail: expect.stringContaining('agent.mjs'),
  });
  expect(await create([await tree('one', [{ name: 'agent.mjs', type: 'directory' }, A])], { agent })).toMatchObject({
    ok: false,
  });
  expect(await create([await tree('one', [{ name: 'agent.mjs', body: 'x' }])], { agent })).toMatchObject({ ok: true });
});

test('what a tree unpacks to stands in the manifest, and is held against the tree', async () => {
  const entries = [
    { name: 'd/', type: 'directory' as const },
    { name: 'd/a', body: 'four' },
    { name: 'e/b', body: 'x' },
  ];
  const tar = await tarOf(entries);
  const created = await create([{ name: 'app', file: await put(tar), install: { kind: 'tree', compression: 'none' } }]);
  const unpacked = { bytes: 5, entries: 4 };
  expect(created).toMatchObject({ value: { manifest: { artifacts: [{ install: { unpacked } }] } } });
  const check = (said: object | undefined) =>
    openContentCheck().artifact(
      {
        name: Id.parse('app'),
        bytes: tar.length,
        install: {
          kind: 'tree',
          compression: 'none',
          ...(said === undefined ? {} : { unpacked: said }),
        } as InstallKind,
      },
      () => Readable.from([tar]),
    );
  expect(await check(unpacked)).toMatchObject({ ok: true });
  expect(await check(undefined)).toMatchObject({ ok: true });
  expect(await check({ bytes: 4, entries: 4 })).toMatchObject({
    ok: false,
    detail: expect.stringContaining('5 bytes in 4'),
  });
  expect(await check({ bytes: 5, entries: 5 })).toMatchObject({ ok: false });
});

test('what other programs write as the size of a folder or link counts neither here nor on the device', async () => {
  const tar = await tarOf([
    { name: 'd/', type: 'directory' },
    { name: 'd/a', body: 'x' },
    { name: 'l', type: 'symlink', linkname: 'd' },
  ]);
  for (const at of [0, 1536]) writeOctal(tar.subarray(at, at + 512), 124, at === 0 ? 4096 : 1, 12);
  const artifact = { name: 'app', bytes: tar.length, install: { kind: 'tree', compression: 'none' } } as const;
  const size = await openContentCheck().artifact(artifact, () => Readable.from([tar]));
  if (!size.ok || size.value === null) throw new Error(size.ok ? 'no size' : size.detail);
  const slot = fresh();
  await mkdir(slot);
  const writer = openTreeWriter(slot, { entriesMax: 9, bytesMax: 9 }, () => undefined);
  const limits = { tarBytesMax: 1e6, unpacked: size.value };
  expect(await unpackTree(Readable.from([tar]), 'none', limits, writer)).toEqual({ ok: true });
  await writer.finish();
});

/** Into a header (POSIX.1-1988, ustar), with its checksum. */
const writeOctal = (header: Buffer, at: number, value: number, bytes: number): void => {
  header.write(`${value.toString(8).padStart(bytes - 1, '0')} `, at, 'latin1');
  header.fill(' ', 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
};

test('a file keeps who may read it, alone and in a folder; what devices do not get is said', async () => {
  const folder = fresh();
  await mkdir(join(folder, 'open'), { recursive: true });
  for (const [name, mode] of [
    ['secret', 0o600],
    ['group', 0o640],
    ['setuid', 0o4755],
    ['open/all', 0o666],
    ['locked', 0o000],
  ] as const) {
    await writeFile(join(folder, name), name);
    await chmod(join(folder, name), mode);
  }
  await link(join(folder, 'secret'), join(folder, 'twin'));
  await writeFile(join(folder, 'holes'), 'x');
  await truncate(join(folder, 'holes'), 8 * 1024 * 1024);
  await symlink('secret', join(folder, 'link'));
  const single = await put('token', 0o600);
  const created = await create([
    { name: 'app', folder },
    { name: 'token', file: single, install: { kind: 'file', path: 'etc/token' } },
    { name: 'tool', file: single, install: { kind: 'file', path: 'etc/tool', executable: true } },
    { name: 'plain', file: await put('x', 0o664), install: { kind: 'file', path: 'etc/plain' } },
    { name: 'read', file: await put('x', 0o440), install: { kind: 'file', path: 'etc/read' } },
  ]);
  if (!created.ok) throw new Error(created.detail);
  const { manifest, lost } = created.value;
  expect(manifest.artifacts.slice(1).map(({ install }) => install)).toEqual([
    { kind: 'file', path: 'etc/token', executable: false, mode: '0600' },
    { kind: 'file', path: 'etc/tool', executable: true, mode: '0700' },
    { kind: 'file', path: 'etc/plain', executable: false },
    { kind: 'file', path: 'etc/read', executable: false, mode: '0440' },
  ]);
  const said = lost.map(({ artifact, what, files, first }) => `${artifact}: ${what}: ${files}: ${first}`);
  expect(said).toEqual(
    expect.arrayContaining([
      expect.stringMatching(/^app: the set-user-id bit: 1: setuid/),
      expect.stringMatching(/^app: that everyone may write: 1: open\/all/),
      expect.stringMatching(/^app: .*hard link.*: 2: /),
      expect.stringMatching(/^app: its holes .*: 1: holes/),
    ]),
  );
});

const name = fc.constantFrom('a', 'b', 'a/b', 'a/c', 'b/a', './a', 'a/', '.', '../a', '/b', 'a//b', 'c');
const entry = fc.record({
  name,
  type: fc.constantFrom<'file' | 'directory' | 'symlink' | 'link'>('file', 'file', 'directory', 'symlink', 'link'),
  linkname: fc.constantFrom('a', 'b', '../a', '../../a', '/a', 'a/../b'),
  mode: fc.constantFrom(0o644, 0o600, 0o4755, 0o777, 0o000),
});

test('whatever is accepted when a bundle is made, a device unpacks; and nothing else', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(entry, { maxLength: 6 }), async (entries) => {
      const tar = await tarOf(entries.map((one) => (one.type === 'file' ? { ...one, body: 'x' } : one)));
      const map = openTreeMap();
      const scanned = await scanTree(Readable.from([tar]), 'none', map);
      const slot = fresh();
      await mkdir(slot);
      const writer = openTreeWriter(slot, { entriesMax: 100, bytesMax: 1000 }, () => undefined);
      const limits = { tarBytesMax: 1_000_000, unpacked: map.size() };
      const unpacked = await unpackTree(Readable.from([tar]), 'none', limits, writer);
      const finished = await writer.finish().then(
        () => true,
        () => false,
      );
      await writer.abandon();
      expect(unpacked.ok && finished).toBe(scanned.ok);
      await rm(slot, { recursive: true, force: true });
    }),
    { numRuns: 300 },
  );
});

test('what the agent unpacks has the modes that were kept', async () => {
  const slot = fresh();
  await mkdir(slot);
  const tar = await tarOf([
    { name: 'secret', mode: 0o600, body: 'x' },
    { name: 'tool', mode: 0o2777, body: 'x' },
    { name: 'locked', body: 'x' },
  ]);
  // The library writes no such mode by itself.
  writeOctal(tar.subarray(2048, 2560), 100, 0, 7);
  const writer = openTreeWriter(slot, { entriesMax: 9, bytesMax: 9 }, () => undefined);
  expect(await unpackTree(Readable.from([tar]), 'none', { tarBytesMax: 1e6 }, writer)).toEqual({ ok: true });
  await writer.finish();
  expect((await stat(join(slot, 'locked'))).mode & 0o7777).toBe(0o400);
  expect((await stat(join(slot, 'secret'))).mode & 0o7777).toBe(0o600);
  expect((await stat(join(slot, 'tool'))).mode & 0o7777).toBe(0o755);
});

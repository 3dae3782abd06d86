import { createHash } from 'node:crypto';
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { constants, createZstdCompress, gzipSync, zstdCompressSync } from 'node:zlib';
import * as fc from 'fast-check';
import { type Header, pack } from 'tar-stream';
import { expect, onTestFinished, test } from 'vitest';
import { openRoomWatch, type RoomWatch } from '#agent/disk/room.ts';
import {
  checkLink,
  checkPath,
  openTreeWriter,
  type TreeEntry,
  type TreeLimits,
  TreeRefused,
  type TreeWriter,
} from '#agent/disk/tree-writer.ts';
import { unpackTree } from '#agent/disk/unpack.ts';
import type { TreeSize } from '#shared/tree-map.ts';

type Part = Partial<Header> & { name: string; body?: string | Buffer };

const tarOf = async (parts: Part[]): Promise<Buffer> => {
  const tar = pack();
  for (const { body, ...header } of parts) {
    if (body === undefined) tar.entry(header);
    else tar.entry(header, body);
  }
  tar.finalize();
  const pieces: Buffer[] = [];
  for await (const piece of tar) if (Buffer.isBuffer(piece)) pieces.push(piece);
  return Buffer.concat(pieces);
};

const folder = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-unpack-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
};

const GENEROUS = { entriesMax: 1_000, bytesMax: 1_000_000 };

const unpack = async (
  bytes: Buffer | Readable,
  {
    compression = 'none',
    limits = GENEROUS,
    tarBytesMax = 10_000_000,
    into,
    room,
    unpacked: said,
  }: {
    compression?: 'none' | 'gzip' | 'zstd';
    limits?: TreeLimits;
    tarBytesMax?: number;
    into?: string;
    room?: RoomWatch;
    unpacked?: TreeSize;
  } = {},
) => {
  const dir = into ?? (await folder());
  const entries: TreeEntry[] = [];
  const writer = openTreeWriter(dir, limits, (entry) => entries.push(entry), room === undefined ? {} : { room });
  const source = bytes instanceof Readable ? bytes : Readable.from(chunksOf(bytes, 7_001));
  const unpacked = await unpackTree(source, compression, { tarBytesMax, unpacked: said }, writer);
  // Small files are written meanwhile: what is wrong with the last of them shows at the end.
  const result = await writer.finish().then(
    () => unpacked,
    (error: unknown) => {
      if (error instanceof TreeRefused) return { ok: false, code: error.code, message: error.message };
      throw error;
    },
  );
  return { dir, entries, result };
};

function* chunksOf(bytes: Buffer, size: number): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

const GOOD: Part[] = [
  { name: './', type: 'directory' },
  { name: './bin/', type: 'directory' },
  { name: './bin/app', mode: 0o4777, body: 'run' },
  { name: 'lib/deep/data.txt', mode: 0o600, body: 'x'.repeat(100_000) },
  { name: 'empty', body: '' },
  { name: 'private/inside', mode: 0o666, body: 'x' },
  { name: 'private/', type: 'directory', mode: 0o4050 },
  { name: 'lib/current', type: 'symlink', linkname: '../bin/app' },
  { name: `${'long/'.repeat(30)}name-${'ä'.repeat(60)}`, body: 'long' },
];

for (const compression of ['none', 'gzip', 'zstd'] as const) {
  test(`a tar with compression ${compression} becomes files, folders and links, with safe modes and a list of digests`, async () => {
    const tar = await tarOf(GOOD);
    const bytes = { none: tar, gzip: gzipSync(tar), zstd: zstdCompressSync(tar) }[compression];
    const { dir, entries, result } = await unpack(bytes, { compression });
    expect(result).toEqual({ ok: true });
    expect((await lstat(join(dir, 'bin/app'))).mode & 0o7777).toBe(0o755);
    expect((await lstat(join(dir, 'lib/deep/data.txt'))).mode & 0o7777).toBe(0o600);
    expect((await lstat(join(dir, 'private'))).mode & 0o7777).toBe(0o750);
    expect(await readlink(join(dir, 'lib/current'))).toBe('../bin/app');
    expect(await readFile(join(dir, 'lib/current'), 'utf8')).toBe('run');
    expect((await readdir(dir)).sort()).toEqual(['bin', 'empty', 'lib', 'long', 'private']);
    const app = { kind: 'file', path: 'bin/app', bytes: 3, executable: true };
    expect(entries).toContainEqual({ ...app, sha256: createHash('sha256').update('run').digest('hex') });
    expect(entries).toContainEqual(
      expect.objectContaining({ path: 'lib/deep/data.txt', executable: false, mode: 0o600 }),
    );
    expect(entries).toContainEqual({ kind: 'folder', path: 'lib/deep' });
    expect(entries).toContainEqual({ kind: 'folder', path: 'private', mode: 0o750 });
    expect(entries).toContainEqual({ kind: 'link', path: 'lib/current', to: '../bin/app' });
  });
}

const HOSTILE: Record<string, Part[]> = {
  'a path that climbs out': [{ name: '../evil', body: 'x' }],
  'a path that climbs out further in': [{ name: 'a/../../evil', body: 'x' }],
  'an absolute path': [{ name: '/tmp/evil', body: 'x' }],
  'a path with a backslash': [{ name: 'a\\..\\evil', body: 'x' }],
  'a path with a control character': [{ name: 'a\nb', body: 'x' }],
  'an absolute link': [{ name: 'l', type: 'symlink', linkname: '/etc' }],
  'a link that climbs out': [{ name: 'd/l', type: 'symlink', linkname: '../../etc' }],
  'a link that goes through another to climb out': [
    { name: 's/t/p', type: 'symlink', linkname: '../..' },
    { name: 'q', type: 'symlink', linkname: 's/t/p/..' },
  ],
  'a file written through a link': [
    { name: 'd', type: 'symlink', linkname: '.' },
    { name: 'd/file', body: 'x' },
  ],
  'a folder in place of a link': [
    { name: 'd', type: 'symlink', linkname: 'e' },
    { name: 'd', type: 'directory' },
  ],
  'a file twice': [
    { name: 'f', body: 'x' },
    { name: 'f', body: 'y' },
  ],
  'a file that is a folder': [
    { name: 'f/g', body: 'x' },
    { name: 'f', body: 'y' },
  ],
  'a hard link': [
    { name: 'f', body: 'x' },
    { name: 'g', type: 'link', linkname: 'f' },
  ],
  'a hard link outside': [{ name: 'g', type: 'link', linkname: '/etc/passwd' }],
  'a device': [{ name: 'null', type: 'character-device', devmajor: 1, devminor: 3 }],
  'a pipe': [{ name: 'pipe', type: 'fifo' }],
  'a name that is too long': [{ name: 'n'.repeat(256), body: 'x' }],
};

for (const [what, parts] of Object.entries(HOSTILE)) {
  test(`${what} is refused, and nothing is written outside`, async () => {
    const dir = await folder();
    await writeFile(join(dir, 'outside'), 'untouched');
    const slot = join(dir, 'slot');
    await mkdir(slot);
    const { result } = await unpack(await tarOf(parts), { into: slot });
    expect(result).toMatchObject({ ok: false, code: 'WRITE_FAILED' });
    expect((await readdir(dir)).sort()).toEqual(['outside', 'slot']);
  });
}

test('a tar with too many entries, or too many bytes, is endless data', async () => {
  const many = await tarOf(Array.from({ length: 11 }, (_, index) => ({ name: `f${index}`, body: 'x' })));
  const tooMany = await unpack(many, { limits: { entriesMax: 10, bytesMax: 1_000 } });
  expect(tooMany.result).toMatchObject({ ok: false, code: 'ENDLESS_DATA' });
  const tooBig = await unpack(many, { limits: { entriesMax: 100, bytesMax: 10 } });
  expect(tooBig.result).toMatchObject({ ok: false, code: 'ENDLESS_DATA' });
});

for (const compression of ['gzip', 'zstd'] as const) {
  test(`a ${compression} bomb ends at the limit, not at the end of memory or disk`, async () => {
    const zeros = Buffer.alloc(64 * 1024 * 1024);
    const bomb = compression === 'gzip' ? gzipSync(zeros) : zstdCompressSync(zeros);
    expect(bomb.length).toBeLessThan(100_000);
    const { dir, result } = await unpack(bomb, { compression, tarBytesMax: 1_000_000 });
    expect(result).toMatchObject({ ok: false, code: 'ENDLESS_DATA' });
    expect(await readdir(dir)).toEqual([]);
  });
}

test('a disk that fills up while a tar is unpacked is said to be full, and not the tar to be damaged', async () => {
  const parts = Array.from({ length: 40 }, (_, index) => ({ name: `f${index}`, body: Buffer.alloc(300_000, index) }));
  for (const code of ['ENOSPC', 'EDQUOT', 'EIO', 'EROFS']) {
    for (const compression of ['none', 'gzip', 'zstd'] as const) {
      const tar = await tarOf(parts);
      const bytes = { none: tar, gzip: gzipSync(tar), zstd: zstdCompressSync(tar) }[compression];
      const writer = openTreeWriter(await folder(), { entriesMax: 1_000, bytesMax: 100_000_000 }, () => undefined);
      let files = 0;
      const failing: TreeWriter = {
        ...writer,
        file: async (path, options, body) => {
          files += 1;
          if (files < 3) return writer.file(path, options, body);
          for await (const _piece of body) throw Object.assign(new Error(code), { code, syscall: 'write' });
        },
      };
      const result = await unpackTree(
        Readable.from(chunksOf(bytes, 65_536)),
        compression,
        { tarBytesMax: 100_000_000 },
        failing,
      );
      const full = code === 'ENOSPC' || code === 'EDQUOT';
      expect(result).toEqual({
        ok: false,
        code: full ? 'NO_SPACE' : 'WRITE_FAILED',
        message: `the slot cannot be written: ${code}`,
      });
    }
  }
});

test('a tree that is more than its manifest says is endless data, and one that is just that is not', async () => {
  const tar = await tarOf(GOOD);
  const exact = { bytes: 100_008, entries: 8 };
  expect((await unpack(tar, { unpacked: exact })).result).toEqual({ ok: true });
  for (const unpacked of [
    { ...exact, bytes: exact.bytes - 1 },
    { ...exact, entries: exact.entries - 1 },
  ])
    expect((await unpack(tar, { unpacked })).result).toMatchObject({
      ok: false,
      code: 'ENDLESS_DATA',
      message: `unpacks to more than its manifest says: ${unpacked.bytes} bytes in ${unpacked.entries} entries`,
    });
});

test('a tree never takes what stays free on the disk for everything else', async () => {
  const parts = Array.from({ length: 20 }, (_, index) => ({ name: `d${index}/f`, body: Buffer.alloc(400_000, index) }));
  const tar = zstdCompressSync(await tarOf(parts));
  const dir = await folder();
  const room = openRoomWatch(dir, async () => 8_000_000 - (await bytesBelow(dir)));
  const limits = { entriesMax: 1_000, bytesMax: 100_000_000 };
  const { result } = await unpack(tar, { compression: 'zstd', limits, tarBytesMax: 100_000_000, into: dir, room });
  expect(result).toMatchObject({
    ok: false,
    code: 'NO_SPACE',
    message: expect.stringMatching(/^there is no room for d\d+\/f: \d+ bytes are free, of which 4194304 stay free/),
  });
  expect(await bytesBelow(dir)).toBeLessThanOrEqual(8_000_000 - 4_194_304);
  expect(await bytesBelow(dir)).toBeGreaterThan(2_000_000);
});
const bytesBelow = async (dir: string): Promise<number> => {
  const names = await readdir(dir, { recursive: true });
  const sizes = await Promise.all(names.map(async (name) => (await lstat(join(dir, name))).size));
  return sizes.reduce((sum, size) => sum + size, 0);
};

test('a zstd frame that asks for more than 8 MiB of window is refused', async () => {
  const compress = createZstdCompress({ params: { [constants.ZSTD_c_windowLog]: 27 } });
  const tar = await tarOf([{ name: 'f', body: Buffer.alloc(9_000_000) }]);
  const { result } = await unpack(Readable.from(chunksOf(tar, 1_000_000)).pipe(compress), { compression: 'zstd' });
  expect(result).toMatchObject({ ok: false, code: 'WRITE_FAILED' });
});

test('a tar that ends early, or a damaged compression, is refused', async () => {
  const tar = await tarOf(GOOD);
  const truncated = [
    await unpack(tar.subarray(0, 50_000)),
    await unpack(gzipSync(tar).subarray(0, 300), { compression: 'gzip' }),
    await unpack(zstdCompressSync(tar).subarray(0, 300), { compression: 'zstd' }),
    await unpack(Buffer.alloc(10_000, 'no tar')),
    await unpack(Buffer.from('not compressed'), { compression: 'gzip' }),
    await unpack(Buffer.from('not compressed'), { compression: 'zstd' }),
  ];
  for (const { result } of truncated) expect(result).toMatchObject({ ok: false, code: 'WRITE_FAILED' });
});

test('no bytes whatever make it write outside, throw, or hang', async () => {
  const good = await tarOf(GOOD);
  const flips = fc.array(fc.tuple(fc.nat(2_600), fc.nat(255)), { minLength: 1, maxLength: 6 });
  await fc.assert(
    fc.asyncProperty(flips, async (changes) => {
      const dir = await mkdtemp(join(tmpdir(), 'sluice-unpack-'));
      try {
        const bytes = Buffer.from(good);
        for (const [at, value] of changes) bytes[at] = value;
        const { result } = await unpack(bytes, { into: dir });
        expect(result.ok || result.code).toBeOneOf([true, 'WRITE_FAILED', 'ENDLESS_DATA']);
      } finally {
        await rm(dir, { recursive: true, force: true });
      }
    }),
    { numRuns: 60 },
  );
});

test('a path that is accepted is the same path again, and stays inside', () => {
  const parts = fc.array(fc.oneof(fc.constantFrom('.', '..', '', 'a', 'b c', '...'), fc.string({ maxLength: 4 })));
  fc.assert(
    fc.property(parts, (names) => {
      let path: string;
      try {
        path = checkPath(names.join('/'));
      } catch {
        return;
      }
      expect(checkPath(path)).toBe(path);
      expect(join('/root', path).startsWith('/root')).toBe(true);
      expect(path.split('/')).not.toContain('..');
    }),
  );
});

test('no set of accepted links leads outside, however they are chained', async () => {
  const names = ['a', 'b', 'c', 'd/a', 'd/b', 'd/e/a', 'd/e/b'];
  const target = fc
    .array(fc.constantFrom('..', '.', 'a', 'b', 'c', 'd', 'e'), { minLength: 1, maxLength: 5 })
    .map((parts) => parts.join('/'));
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(fc.constantFrom(...names), target), { maxLength: 7 }), async (links) => {
      const top = await mkdtemp(join(tmpdir(), 'sluice-links-'));
      try {
        const root = join(top, 'root');
        await mkdir(join(root, 'd/e'), { recursive: true });
        const made: string[] = [];
        for (const [name, to] of links) {
          try {
            checkLink(name, to);
            await symlink(to, join(root, name));
            made.push(name);
          } catch {
            // Refused, or there already.
          }
        }
        const real = await realpath(root);
        for (const name of made) {
          const reached = await realpath(join(root, name)).catch(() => real);
          expect(`${reached}/`.startsWith(`${real}/`)).toBe(true);
        }
      } finally {
        await rm(top, { recursive: true, force: true });
      }
    }),
    { numRuns: 200 },
  );
});

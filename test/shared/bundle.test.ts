import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, symlink, truncate, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import * as fc from 'fast-check';
import { extract, pack } from 'tar-stream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { BundlePart } from '#shared/bundle-part.ts';
import { type BundleDescription, createBundle } from '#shared/create-bundle.ts';
import { Manifest } from '#shared/manifest.ts';
import { readBundle } from '#shared/read-bundle.ts';
import { encodeIndex } from '#shared/transfer/chunk-index.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { recordsOf } from './transfer/bytes.ts';

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'sluice-bundle-'));
});
afterAll(() => rm(root, { recursive: true, force: true }));

const fields = {
  product: 'gateway',
  version: '1.0.0',
  compatible: 'gw-arm',
  securityCounter: 0,
} as BundleDescription['manifest'];
let made = 0;
const fresh = (): string => join(root, `made-${made++}`);
const put = async (bytes: Uint8Array | string): Promise<string> => {
  const file = fresh();
  await writeFile(file, bytes);
  return file;
};
const create = async (more: Partial<BundleDescription> = {}): Promise<string> => {
  const out = `${fresh()}.sluice`;
  const file = await put('the application');
  const artifacts = [{ name: 'app', file, install: { kind: 'file' as const, path: 'app.mjs' } }];
  const result = await createBundle({ manifest: fields, artifacts, out, ...more });
  if (!result.ok) throw new Error(result.detail);
  return out;
};
/** In pieces of odd sizes, because a socket cuts where it likes. */
async function* inPieces(bytes: Uint8Array, size = 337): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}
const collect = async (source: AsyncIterable<Uint8Array>) => {
  const parts: { part: BundlePart; bytes: Buffer }[] = [];
  let first: Manifest | undefined;
  const result = await readBundle(source, {
    manifest: async (_, manifest) => void (first = manifest),
    part: async (part, body) => {
      parts.push({ part, bytes: await gather(body) });
    },
  });
  return { result, parts, first };
};
const gather = async (source: AsyncIterable<unknown>): Promise<Buffer> => {
  const pieces: Uint8Array[] = [];
  for await (const piece of source) if (piece instanceof Uint8Array) pieces.push(piece);
  return Buffer.concat(pieces);
};
const codeOf = async (bytes: Uint8Array): Promise<string> => {
  const { result } = await collect(inPieces(bytes));
  return result.ok ? 'accepted' : result.code;
};
/** A tar of any form, for bundles that we would never write. */
const tarOf = async (entries: [name: string, body: Buffer | string][]): Promise<Buffer> => {
  const tar = pack();
  for (const [name, body] of entries) tar.entry({ name, mode: 0o644, mtime: new Date(0) }, Buffer.from(body));
  tar.finalize();
  return await gather(tar);
};
const manifestOf = (change: object = {}): string =>
  JSON.stringify({
    ...fields,
    format: 1,
    artifacts: [
      {
        name: 'app',
        bytes: 3,
        sha256: createHash('sha256').update('abc').digest('hex'),
        install: { kind: 'file', path: 'app' },
      },
    ],
    ...change,
  });

test('what goes into a bundle comes out of it, byte for byte and in order', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ maxLength: 2000 }), { minLength: 1, maxLength: 4 }),
      fc.array(fc.uint8Array({ maxLength: 600 }), { maxLength: 3 }),
      fc.integer({ min: 1, max: 5000 }),
      async (bodies, extras, size) => {
        const artifacts = [];
        for (const [index, body] of bodies.entries()) {
          artifacts.push({
            name: `a${index}`,
            file: await put(body),
            install: { kind: 'file' as const, path: `f${index}` },
          });
        }
        const attachments = [];
        for (const [index, body] of extras.entries()) {
          // The longest name needs an extended header in the tar.
          attachments.push({ kind: 'other' as const, file: await put(body), name: `${index}`.padEnd(128, 'n') });
        }
        const bytes = await readFile(await create({ artifacts, attachments }));
        const { result, parts, first } = await collect(inPieces(bytes, size));
        expect(result.ok).toBe(true);
        expect(first?.version).toBe('1.0.0');
        expect(parts.map((part) => part.bytes)).toEqual([...bodies, ...extras].map((body) => Buffer.from(body)));
      },
    ),
    { numRuns: 30 },
  );
});

test('a single flipped bit anywhere in a bundle is refused', async () => {
  const attachment = { kind: 'notes' as const, file: await put('notes'), name: 'n'.repeat(120) };
  const bytes = await readFile(await create({ attachments: [attachment] }));
  expect(await codeOf(bytes)).toBe('accepted');
  await fc.assert(
    fc.asyncProperty(fc.nat(bytes.length - 1), fc.nat(7), async (at, bit) => {
      const flipped = Buffer.from(bytes);
      flipped[at]! ^= 1 << bit;
      const { result } = await collect(inPieces(flipped));
      // Inside the manifest a flip can make another well-formed manifest: its signature tells, since its bytes differ.
      const refused =
        !result.ok && ['bundle-invalid', 'manifest-invalid', 'digest-mismatch', 'too-large'].includes(result.code);
      expect(refused || (result.ok && !result.value.manifestBytes.equals(manifestBytesOf(bytes)))).toBe(true);
    }),
    { numRuns: 600 },
  );
});
const manifestBytesOf = (bundle: Buffer): Buffer =>
  bundle.subarray(512, 512 + Number.parseInt(bundle.subarray(124, 135).toString(), 8));

test('a bundle that is cut short anywhere, or continues, is refused', async () => {
  const bytes = await readFile(await create());
  await fc.assert(
    fc.asyncProperty(fc.nat(bytes.length - 1), async (length) => {
      expect(await codeOf(bytes.subarray(0, length))).toBe('bundle-invalid');
    }),
    { numRuns: 100 },
  );
  expect(await codeOf(Buffer.concat([bytes, Buffer.alloc(1)]))).toBe('bundle-invalid');
  expect(await codeOf(Buffer.concat([bytes, bytes]))).toBe('bundle-invalid');
});

test('entries that are unknown, missing, repeated, out of order or of another size are refused', async () => {
  const manifest = manifestOf();
  const app: [string, string] = ['artifacts/app', 'abc'];
  expect(await codeOf(await tarOf([['manifest.json', manifest], app]))).toBe('accepted');
  for (const entries of [
    [['manifest.json', manifest]],
    [app, ['manifest.json', manifest]],
    [['manifest.json', manifest], app, app],
    [
      ['manifest.json', manifest],
      ['artifacts/other', 'abc'],
    ],
    [
      ['manifest.json', manifest],
      ['attachments/app', 'abc'],
    ],
    [
      ['manifest.json', manifest],
      ['artifacts/../app', 'abc'],
    ],
    [['manifest.json', manifest], app, ['extra', '']],
    [
      ['manifest.json', manifest],
      ['artifacts/app', 'abcd'],
    ],
    [['other.json', manifest], app],
  ] as [string, string][][]) {
    expect(await codeOf(await tarOf(entries))).toBe('bundle-invalid');
  }
});

test.each(['.', '..', 'a/b', '', 'a\0b', 'n'.repeat(129)])('an attachment cannot be named %j', (name) => {
  const attachment = { kind: 'other', name, bytes: 1, sha256: 'a'.repeat(64) };
  expect(Manifest.shape.attachments.safeParse([attachment]).success).toBe(false);
});

test('each thing that can be wrong has its own code', async () => {
  const withManifest = (manifest: string | Buffer, body = 'abc') =>
    tarOf([
      ['manifest.json', manifest],
      ['artifacts/app', body],
    ]).then(codeOf);
  expect(await withManifest(manifestOf(), 'abd')).toBe('digest-mismatch');
  expect(await withManifest(manifestOf({ version: 'v1' }))).toBe('manifest-invalid');
  expect(await withManifest(manifestOf({ surprise: true }))).toBe('manifest-invalid');
  expect(await withManifest('{')).toBe('manifest-invalid');
  expect(await withManifest(Buffer.from([0xff, 0xfe]))).toBe('manifest-invalid');
  expect(await withManifest(' '.repeat(300_000))).toBe('too-large');
  expect(await codeOf(Buffer.from('not a tar at all'))).toBe('bundle-invalid');
  expect(await codeOf(Buffer.alloc(4096))).toBe('bundle-invalid');
  expect(await codeOf(Buffer.alloc(0))).toBe('bundle-invalid');
});

test('a body with a wrong digest throws before it ends, so that no one takes it for whole', async () => {
  const bytes = await tarOf([
    ['manifest.json', manifestOf()],
    ['artifacts/app', 'abd'],
  ]);
  let ended = false;
  const result = await readBundle(inPieces(bytes), {
    manifest: async () => {},
    part: async (_, body) => {
      for await (const _piece of body);
      ended = true;
    },
  });
  expect(result).toMatchObject({ ok: false, code: 'digest-mismatch' });
  expect(ended).toBe(false);
});

test('a part that no one reads is checked all the same', async () => {
  const sink = { manifest: async () => {}, part: async () => {} };
  expect(await readBundle(createReadStream(await create()), sink)).toMatchObject({ ok: true });
  const bad = await tarOf([
    ['manifest.json', manifestOf()],
    ['artifacts/app', 'abd'],
  ]);
  expect(await readBundle(inPieces(bad), sink)).toMatchObject({ ok: false, code: 'digest-mismatch' });
});

test('the same folder gives the same bundle, whatever its times and the order of its making', async () => {
  const bundles: Buffer[] = [];
  for (const names of [
    ['b.txt', 'a.txt', 'sub/c.mjs'],
    ['sub/c.mjs', 'a.txt', 'b.txt'],
  ]) {
    const folder = fresh();
    await mkdir(join(folder, 'sub'), { recursive: true });
    for (const name of names) {
      await writeFile(join(folder, name), `content of ${name}`);
      await utimes(join(folder, name), 1_000 + bundles.length, 2_000 + bundles.length);
    }
    // As another umask leaves it.
    await chmod(join(folder, 'sub/c.mjs'), bundles.length === 0 ? 0o755 : 0o775);
    await symlink('a.txt', join(folder, 'link'));
    for (const compression of ['none', 'gzip', 'zstd'] as const) {
      bundles.push(await readFile(await create({ artifacts: [{ name: 'app', folder, compression }] })));
    }
  }
  expect(bundles.slice(0, 3)).toEqual(bundles.slice(3));
  const { parts } = await collect(inPieces(bundles[1]!));
  const tar = extract();
  tar.end(gunzipSync(parts[0]!.bytes));
  const entries: unknown[] = [];
  for await (const entry of tar) {
    const { name, mode, type, linkname, mtime, uid } = entry.header;
    entries.push([name, type, mode?.toString(8), linkname, mtime?.getTime(), uid]);
    entry.resume();
  }
  expect(entries).toEqual([
    ['a.txt', 'file', '644', null, 0, 0],
    ['b.txt', 'file', '644', null, 0, 0],
    ['link', 'symlink', '755', 'a.txt', 0, 0],
    ['sub', 'directory', '755', null, 0, 0],
    ['sub/c.mjs', 'file', '755', null, 0, 0],
  ]);
});

test('what cannot travel is refused with its name, and leaves nothing behind', async () => {
  const folder = fresh();
  await mkdir(folder);
  await symlink('../elsewhere', join(folder, 'link'));
  const out = join(await mkdtemp(join(root, 'out-')), 'x.sluice');
  const tree = await createBundle({ manifest: fields, artifacts: [{ name: 'app', folder }], out });
  expect(tree).toMatchObject({
    ok: false,
    code: 'bundle-invalid',
    detail: expect.stringContaining('leaves the tree'),
  });
  const install = { kind: 'file' as const, path: 'x' };
  const missing = await createBundle({
    manifest: fields,
    artifacts: [{ name: 'app', file: `${folder}/no`, install }],
    out,
  });
  expect(missing).toMatchObject({ ok: false, code: 'bundle-invalid' });
  const file = await put('x');
  const bad = await createBundle({
    manifest: { ...fields, version: '1' },
    artifacts: [{ name: 'app', file, install }],
    out,
  });
  expect(bad).toMatchObject({ ok: false, code: 'manifest-invalid', detail: expect.stringContaining('version') });
  expect(await readdir(join(out, '..'))).toEqual([]);
});

test('memory stays flat while a large bundle is made and read', async () => {
  const file = fresh();
  await writeFile(file, '');
  const bytes = 192 * 1024 ** 2;
  await truncate(file, bytes);
  const before = process.memoryUsage.rss();
  const peak = { bytes: 0 };
  const watch = () => void (peak.bytes = Math.max(peak.bytes, process.memoryUsage.rss()));
  const artifacts = [{ name: 'app', file, install: { kind: 'file' as const, path: 'big' } }];
  const out = await create({ artifacts, onProgress: watch });
  const part = async (_: BundlePart, body: AsyncIterable<Uint8Array>) => {
    for await (const _piece of body) watch();
  };
  expect(await readBundle(createReadStream(out), { manifest: async () => {}, part })).toMatchObject({ ok: true });
  // What is collected, and when, is not ours to say; that it never has all of it at once is.
  expect(peak.bytes - before).toBeLessThan(0.9 * bytes);
});

test('artifacts of 64 KiB and more carry the digest of their chunk index, smaller ones none', async () => {
  const chunksOf = async (content: Buffer) => {
    const artifacts = [{ name: 'app', file: await put(content), install: { kind: 'file' as const, path: 'app' } }];
    const { result } = await collect(createReadStream(await create({ artifacts })));
    if (!result.ok) throw new Error(result.detail);
    return result.value.manifest.artifacts[0]!.chunks;
  };
  const content = Buffer.alloc(300_000, 'anything at all ');
  const index = encodeIndex(recordsOf(content));
  expect(await chunksOf(content)).toEqual({ format: 1, index: sha256Hex(index), bytes: index.length });
  expect(await chunksOf(content.subarray(0, 65_535))).toBeUndefined();
  expect(await chunksOf(content.subarray(0, 65_536))).toBeDefined();
});

test('a folder is not compressed unless told, and what is compressed inside is named', async () => {
  const folder = fresh();
  await mkdir(folder);
  await writeFile(join(folder, 'app.mjs'), 'the application');
  const made = async (more: { compression?: 'gzip' | 'zstd' }) => {
    const artifacts = [{ name: 'app', folder, ...more }];
    const result = await createBundle({ manifest: fields, artifacts, out: fresh() });
    if (!result.ok) throw new Error(result.detail);
    return [result.value.manifest.artifacts[0]!.install, result.value.compressed];
  };
  const unpacked = { bytes: 15, entries: 1 };
  expect(await made({})).toEqual([{ kind: 'tree', compression: 'none', unpacked }, []]);
  for (const compression of ['gzip', 'zstd'] as const) {
    expect(await made({ compression })).toEqual([
      { kind: 'tree', compression, unpacked },
      [{ name: 'app', how: compression }],
    ]);
  }
});

test('a version that other tools cannot compare is refused when it is made, and when it is published', async () => {
  const version = '99999999999999999999.0.0';
  await expect(create({ manifest: { ...fields, version } })).rejects.toThrow(/is too large/);
  const { result } = await collect(inPieces(await tarOf([['manifest.json', manifestOf({ version })]])));
  expect(result).toMatchObject({
    ok: false,
    code: 'manifest-invalid',
    detail: expect.stringContaining('is too large'),
  });
});

test('a bundle that was packed again, or is something else, is told apart in words', async () => {
  const manifest = manifestOf();
  const repacked = pack();
  repacked.entry({ name: './manifest.json', mode: 0o600, mtime: new Date(5) }, manifest);
  repacked.finalize();
  const random = await put(randomBytes(2_000));
  const whole = await readFile(await create({ attachments: [{ kind: 'other', file: random }] }));
  const why = async (bytes: Buffer): Promise<string> => {
    const { result } = await collect(inPieces(bytes));
    return result.ok ? 'accepted' : result.detail;
  };
  const packed = await gather(repacked);
  expect(await why(packed)).toMatch(/written by another program.*exactly one form/);
  const withoutMagic = Buffer.from(packed).fill(0, 257, 265);
  expect(await why(withoutMagic)).toMatch(/written by another program/);
  expect(await why(await tarOf([['artifacts/app', 'abc']]))).toMatch(/begins with "artifacts\/app", not with manifest/);
  expect(await why(gzipSync(whole))).toMatch(/it is compressed/);
  expect(await why(Buffer.concat([Buffer.alloc(512), whole]))).toMatch(/no tar that begins with manifest.json/);
});

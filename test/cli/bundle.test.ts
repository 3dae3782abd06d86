/** `sluice key` and `sluice bundle`: what CI does before it knows any server. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { runSluice } from './run.ts';

const ROOT = join(import.meta.dirname, '..', '..');
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sluice-cli-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test('a key is private, goes with its public half, and is never overwritten', async () => {
  const out = join(folder, 'ci.pem');
  const made = await runSluice(['key', 'new', '--out', out, '--json']);
  expect(made.code).toBe(0);
  const key = z.object({ keyId: z.string(), publicFile: z.string() }).parse(JSON.parse(made.out));
  expect(key.keyId).toMatch(/^[0-9a-f]{64}$/);
  expect((await stat(out)).mode & 0o777).toBe(0o600);
  expect(await readFile(key.publicFile, 'utf8')).toContain('BEGIN PUBLIC KEY');
  const before = await readFile(out, 'utf8');
  const again = await runSluice(['key', 'new', '--out', out]);
  expect(again).toMatchObject({ code: 1, err: expect.stringContaining('never overwritten') });
  expect(await readFile(out, 'utf8')).toBe(before);
  const rsa = await runSluice(['key', 'new', '--type', 'rsa-3072', '--out', join(folder, 'rsa.pem'), '--json']);
  expect(JSON.parse(rsa.out)).toMatchObject({ kind: 'rsa-3072' });
});

test('bundles are made from a description, the same every time, and checked', async () => {
  const description = join(ROOT, 'firmware-samples/good-1.0.0/bundle.yaml');
  const made = [];
  for (const name of ['one', 'two']) {
    const ran = await runSluice([
      'bundle',
      'create',
      '--file',
      description,
      '--out',
      `${join(folder, name)}/`,
      '--json',
    ]);
    expect(ran).toMatchObject({ code: 0, err: '' });
    made.push(
      z
        .array(z.object({ sha256: z.string() }))
        .parse(JSON.parse(ran.out))
        .map(({ sha256 }) => sha256),
    );
  }
  expect(made[0]).toHaveLength(2);
  expect(made[0]).toEqual(made[1]);
  const file = join(folder, 'one', 'gateway-1.0.0-gw-arm.sluice');
  const inspected = await runSluice(['bundle', 'inspect', file, '--json']);
  expect(JSON.parse(inspected.out)).toMatchObject({
    manifest: { product: 'gateway', version: '1.0.0', changes: ['GW-1'] },
  });
  expect(await runSluice(['bundle', 'verify', file])).toMatchObject({ code: 0 });
  const bytes = await readFile(file);
  bytes[bytes.length - 2000]! ^= 1;
  const bad = join(folder, 'bad.sluice');
  await writeFile(bad, bytes);
  const verified = await runSluice(['bundle', 'verify', file, bad]);
  expect(verified.code).toBe(1);
  expect(verified.out).toContain(`bad  ${bad}`);
  expect(verified.err).toMatch(/digest-mismatch|bundle-invalid/);
});

test('a file name of any length is cut where a bundle does not hold', async () => {
  const missing = `/${'a'.repeat(70_000)}.sluice`;
  const cut = /^bad {2}\/a{49}\.{3}a{43}\.sluice \(70008 characters\)\n$/;
  const verified = await runSluice(['bundle', 'verify', missing]);
  expect(verified).toMatchObject({ code: 1, out: expect.stringMatching(cut) });
  expect(verified.err.length).toBeLessThan(200);
  const { out } = await runSluice(['bundle', 'verify', missing, '--json']);
  expect(JSON.parse(out)).toMatchObject([{ ok: false, file: missing, why: verified.err.slice(7, -1) }]);
});

test('Ctrl-C in the middle of making a bundle leaves nothing behind', async () => {
  await mkdir(join(folder, 'large'));
  await writeFile(join(folder, 'large', 'image'), '');
  await truncate(join(folder, 'large', 'image'), 4 * 1024 ** 3);
  const out = join(folder, 'broken-off');
  const what = [
    '--product',
    'p',
    '--version',
    '1.0.0',
    '--compatible',
    'c',
    '--folder',
    `app=${join(folder, 'large')}`,
  ];
  const launcher = join(ROOT, 'cli/sluice.mjs');
  const child = spawn(process.execPath, [launcher, 'bundle', 'create', ...what, '--out', `${out}/`], {
    stdio: 'ignore',
  });
  const ended = once(child, 'exit');
  await expect.poll(() => readdir(out).catch(() => [])).toHaveLength(1);
  child.kill('SIGINT');
  expect(await ended).toEqual([130, null]);
  expect(await readdir(out)).toEqual([]);
});

test('flags describe a bundle too, and stand over the file', async () => {
  await writeFile(join(folder, 'app.mjs'), 'console.log(1)');
  const flags = ['--product', 'p', '--version', '2.0.0', '--compatible', 'c', '--artifact', 'app=app.mjs:bin/app.mjs'];
  const more = [
    '--health',
    'http://127.0.0.1:{port}/',
    '--change',
    'A-1',
    '--change',
    'A-2',
    '--attach',
    'sbom=app.mjs',
  ];
  const ran = await runSluice(['bundle', 'create', ...flags, ...more, '--run', 'node', 'bin/app.mjs', '--json'], {
    cwd: folder,
  });
  expect(ran).toMatchObject({ code: 0, err: '' });
  expect(JSON.parse(ran.out)).toMatchObject([
    {
      file: expect.stringMatching(/p-2\.0\.0-c\.sluice$/),
      manifest: {
        changes: ['A-1', 'A-2'],
        run: { command: ['node', 'bin/app.mjs'] },
        attachments: [{ kind: 'sbom', name: 'app.mjs' }],
      },
    },
  ]);
  const description = join(ROOT, 'firmware-samples/good-1.0.0/bundle.yaml');
  const over = ['--version', '9.9.9', '--compatible', 'gw-x86', '--out', join(folder, 'over.sluice'), '--json'];
  const second = await runSluice(['bundle', 'create', '--file', description, ...over]);
  expect(JSON.parse(second.out)).toMatchObject([{ manifest: { version: '9.9.9', compatible: 'gw-x86' } }]);
  const wrong = await runSluice(['bundle', 'create', '--product', 'p', '--version', 'v1'], { cwd: folder });
  expect(wrong).toMatchObject({ code: 2, err: expect.stringMatching(/version[\s\S]*artifacts/) });
});

test('an image is a bundle of its own, and is booted, not run', async () => {
  await writeFile(join(folder, 'rootfs.ext4'), Buffer.alloc(70_000, 'an image'));
  const flags = ['--product', 'os', '--version', '1.0.0', '--compatible', 'c', '--image', 'rootfs=rootfs.ext4'];
  const ran = await runSluice(['bundle', 'create', ...flags, '--json'], { cwd: folder });
  expect(JSON.parse(ran.out)).toMatchObject([
    { manifest: { artifacts: [{ name: 'rootfs', bytes: 70_000, install: { kind: 'image' } }] } },
  ]);
  const run = await runSluice(['bundle', 'create', ...flags, '--run', 'node', 'x'], { cwd: folder });
  expect(run).toMatchObject({ code: 1, err: expect.stringContaining('an image is booted, not run') });
  const two = await runSluice(['bundle', 'create', ...flags, '--image', 'other=rootfs.ext4'], { cwd: folder });
  expect(two).toMatchObject({ code: 1, err: expect.stringContaining('fills its slot alone') });
});

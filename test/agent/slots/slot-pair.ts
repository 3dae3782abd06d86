/** An A/B pair in a folder of its own, releases to put into it, and ways to damage it. */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, open, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import type { Application, Supervisor } from '#agent/application/supervisor.ts';
import type { FetchedArtifact, SlotName, Slots } from '#agent/domain/slots.ts';
import { openDirectorySlots } from '#agent/slots/directories.ts';
import { Manifest } from '#shared/manifest.ts';
import { writeTree } from '#shared/tree.ts';

/** A supervisor whose applications run forever and cost nothing. */
export const fakeSupervisor = (): Supervisor & { application: Application | null; starts: number } => ({
  application: null,
  starts: 0,
  async start(application) {
    this.application = application;
    this.starts += 1;
    return { ok: true };
  },
  running() {
    return this.application === null ? null : { slot: this.application.slot, pid: 2, ranMs: 0 };
  },
  keepRunning() {
    if (this.application !== null) this.application = { ...this.application, onExit: 'restart' };
  },
  listen: () => () => undefined,
  lastOutput: async () => '',
  async stop() {
    this.application = null;
  },
});

export const folder = async (): Promise<string> => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-slots-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  return dir;
};

export const sha256 = (bytes: Uint8Array | string): string => createHash('sha256').update(bytes).digest('hex');

export type Release = { manifest: Manifest; digest: string; fetched: FetchedArtifact[] };

/** A release of a tree and a file, as it lies on the device after fetching. */
export const makeRelease = async (dir: string, version: string, more: object = {}): Promise<Release> => {
  const source = join(dir, `source-${version}`);
  await mkdir(join(source, 'lib/deep'), { recursive: true });
  await writeFile(join(source, 'app.js'), `console.log(${JSON.stringify(version)})`, { mode: 0o755 });
  await writeFile(join(source, 'lib/deep/data'), Buffer.alloc(50_000, version));
  await symlink('../app.js', join(source, 'lib/main.js'));
  const tree = join(dir, `tree-${version}`);
  const written = await writeTree(source, 'gzip', tree);
  if (!written.ok) throw new Error(written.detail);
  const file = join(dir, `file-${version}`);
  await writeFile(file, `settings of ${version}`);
  const part = async (name: string, path: string, install: object): Promise<object> => {
    const bytes = await readFile(path);
    return { name, bytes: bytes.length, sha256: sha256(bytes), install };
  };
  const manifest = Manifest.parse({
    format: 1,
    product: 'gateway',
    version,
    compatible: 'gw',
    securityCounter: 3,
    artifacts: [
      await part('tree', tree, { kind: 'tree', compression: 'gzip' }),
      await part('file', file, { kind: 'file', path: 'etc/settings', executable: true }),
    ],
    run: { command: ['node', 'app.js'], environment: { MODE: 'test' } },
    ...more,
  });
  const fetched = [
    { name: 'tree', file: tree },
    { name: 'file', file },
  ];
  return { manifest, digest: sha256(JSON.stringify(manifest)), fetched };
};

export const pair = async (more: { slotBytesMax?: number } = {}) => {
  const dir = await folder();
  const supervisor = fakeSupervisor();
  const options = { dir: join(dir, 'pair'), supervisor, ...more };
  const slots = await openDirectorySlots(options);
  const reopen = (crashPoint?: (name: string) => void): Promise<Slots> =>
    openDirectorySlots({ ...options, ...(crashPoint === undefined ? {} : { crashPoint }) });
  const release = (version: string): Promise<Release> => makeRelease(dir, version);
  return { dir, pairDir: options.dir, supervisor, slots, reopen, release };
};

export const viewOf = async (slots: Slots) => {
  const inspected = await slots.inspect();
  if (!inspected.ok) throw new Error(inspected.message);
  return inspected.view;
};

export const install = async (slots: Slots, slot: SlotName, { manifest, digest, fetched }: Release): Promise<void> => {
  expect(await slots.prepare(slot)).toEqual({ ok: true });
  expect(await slots.write(slot, manifest, digest, fetched)).toEqual({ ok: true });
  expect(await slots.verify(slot)).toEqual({ ok: true });
};

export const deploy = async (slots: Slots, slot: SlotName, release: Release, deployment: string): Promise<void> => {
  await install(slots, slot, release);
  expect(await slots.activate(slot, { tries: 2, deployment })).toEqual({ ok: true });
  expect(await slots.boot()).toEqual({ booted: slot, trial: true });
  expect(await slots.commit()).toEqual({ ok: true });
};

export const flipByte = async (file: string, at: number): Promise<void> => {
  const handle = await open(file, 'r+');
  const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, at);
  buffer[0]! ^= 1;
  await handle.write(buffer, 0, 1, at);
  await handle.close();
};

export const COPIES = ['boot.0.json', 'boot.1.json'];
export const newestSelector = async (dir: string): Promise<string> => {
  const texts = await Promise.all(COPIES.map((copy) => readFile(join(dir, copy), 'utf8').catch(() => '')));
  const generations = texts.map((text) => Number(/"generation":(\d+)/.exec(text)?.[1] ?? 0));
  return join(dir, COPIES[generations[0]! > generations[1]! ? 0 : 1]!);
};

export const REFUSED = { ok: false, code: 'PRECONDITION' };

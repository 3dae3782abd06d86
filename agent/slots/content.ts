/** What is in a slot: written from verified artifacts, and read back from the disk. */
import { createHash, type Hash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { chmod, lstat, mkdir, readdir, readFile, readlink, rm, stat } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { Readable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { syncFolder } from '#shared/durable.ts';
import type { Artifact, InstallKind, Manifest } from '#shared/manifest.ts';
import { TREE_ENTRIES_MAX } from '#shared/tree.ts';
import { usualMode } from '#shared/tree-mode.ts';
import { readChunks } from '../disk/hashed-write.ts';
import { openStoredReader } from '../disk/read-back.ts';
import { freeOn, noRoomFor, placedBytes, unpackedSize } from '../disk/room.ts';
import { type FileOwner, openTreeWriter, TreeEntry, TreeRefused, type TreeWriter } from '../disk/tree-writer.ts';
import type { FetchedArtifact, SlotName, SlotResult } from '../domain/slots.ts';
import { storageRefusal } from '../process/system-error.ts';
import { fileListOf, slotFolder } from './slot-record.ts';

const READERS = 4;

type Refused = Extract<SlotResult, { ok: false }>;
const refuse = (code: Refused['code'], message: string): Refused => ({ ok: false, code, message });
/** Called off: no word about the slot, which stays as far as it is. */
export const STOPPED: Refused = refuse('WRITE_FAILED', 'stopped');

/** Empties the slot's folder; afterwards it is there and empty, durably. Throws the system's error. */
export const emptySlot = async (dir: string, slot: SlotName): Promise<void> => {
  await rm(slotFolder(dir, slot), { recursive: true, force: true });
  await rm(fileListOf(dir, slot), { force: true });
  await mkdir(slotFolder(dir, slot));
  // The application may be another user than the agent, whose umask is its own.
  await chmod(slotFolder(dir, slot), 0o755);
  await syncFolder(dir);
};

/** Whether a slot may take what the manifest announces, whatever the disk is like. */
export const fitsSlot = (artifacts: readonly Artifact[], slotBytesMax: number): SlotResult => {
  const filled = artifacts.reduce((sum, one) => sum + (unpackedSize(one)?.bytes ?? one.bytes), 0);
  if (filled <= slotBytesMax) return { ok: true };
  return refuse('NO_SPACE', `${filled} bytes do not fit into a slot of ${slotBytesMax} (slotBytesMax)`);
};

/**
 * Whether there is room for what the manifest announces: known before any write (faults 18, 19). A file on the same
 * file system is linked, not copied. A compressed tree that does not say what it unpacks to needs more than its bytes;
 * that shows while unpacking.
 */
export const checkRoom = async (
  dir: string,
  artifacts: { artifact: Artifact; file: string }[],
  slotBytesMax: number,
): Promise<SlotResult> => {
  const fits = fitsSlot(
    artifacts.map(({ artifact }) => artifact),
    slotBytesMax,
  );
  if (!fits.ok) return fits;
  const { dev } = await stat(dir);
  let copied = 0;
  for (const { artifact, file } of artifacts)
    if (artifact.install.kind === 'tree' || (await stat(file)).dev !== dev) copied += placedBytes(artifact);
  const why = noRoomFor(copied, await freeOn(dir));
  return why === undefined ? { ok: true } : refuse('NO_SPACE', why);
};

/** Fills the empty slot, and lists what it wrote: `files` is the digest of the list. */
export const writeContent = async (
  dir: string,
  slot: SlotName,
  artifacts: { artifact: Artifact; file: string }[],
  slotBytesMax: number,
  { owner = null, signal }: { owner?: FileOwner | null | undefined; signal?: AbortSignal | undefined } = {},
): Promise<{ ok: true; files: string } | Refused> => {
  const listHash = createHash('sha256');
  const list = createWriteStream(fileListOf(dir, slot), { flush: true });
  const listed = finished(list);
  listed.catch(() => undefined);
  const limits = { entriesMax: TREE_ENTRIES_MAX, bytesMax: slotBytesMax };
  const onEntry = (entry: TreeEntry): void => {
    const line = `${JSON.stringify(entry)}\n`;
    listHash.update(line);
    list.write(line);
  };
  const writer = openTreeWriter(slotFolder(dir, slot), limits, onEntry, { owner, signal });
  try {
    for (const { artifact, file } of artifacts) {
      const placed = await placeArtifact(artifact, file, slotBytesMax, writer);
      if (!placed.ok) return placed;
    }
    await writer.finish();
    list.end();
    await listed;
    await syncFolder(dir);
    return { ok: true, files: listHash.digest('hex') };
  } catch (error) {
    if (signal?.aborted === true) return STOPPED;
    if (error instanceof TreeRefused) return refuse(error.code, error.message);
    return storageRefusal(error, `slot ${slot} cannot be written`);
  } finally {
    await writer.abandon();
    list.destroy();
  }
};

const placeArtifact = async (
  artifact: Artifact,
  file: string,
  slotBytesMax: number,
  writer: TreeWriter,
): Promise<SlotResult> => {
  const { install, bytes, sha256 } = artifact;
  if (install.kind === 'file') {
    const options = { bytes, mode: modeOfFile(install) };
    // The digest was checked when the file was fetched, and is checked again when the slot is read back.
    if (await writer.adopt(install.path, { ...options, sha256, file })) return { ok: true };
  }
  const hash = createHash('sha256');
  const source = hashing(file, hash);
  if (install.kind === 'file') await writer.file(install.path, { bytes, mode: modeOfFile(install) }, source);
  else if (install.kind === 'tree') {
    // Every entry takes a block for its header and pads its body to one.
    const limits = { tarBytesMax: slotBytesMax + 4 * 512 * TREE_ENTRIES_MAX, unpacked: unpackedSize(artifact) };
    // Idle agents do without it.
    const { unpackTree } = await import('../disk/unpack.ts');
    const unpacked = await unpackTree(Readable.from(source), install.compression, limits, writer);
    if (!unpacked.ok) return unpacked;
  }
  if (hash.digest('hex') === sha256) return { ok: true };
  return refuse('TARGET_HASH', `${artifact.name} has changed on the disk since it was fetched`);
};

const modeOfFile = ({ mode, executable }: Extract<InstallKind, { kind: 'file' }>): number =>
  mode === undefined ? usualMode(executable) : Number.parseInt(mode, 8);

async function* hashing(file: string, hash: Hash): AsyncGenerator<Buffer> {
  for await (const chunk of readChunks(file, 256 * 1024)) {
    hash.update(chunk);
    yield chunk;
  }
}

/** Reads all of the slot from the disk and compares: what differs, is missing or is too much is `WRITE_VERIFY`. */
export const verifyContent = async (
  dir: string,
  slot: SlotName,
  listSha256: string,
  signal?: AbortSignal,
): Promise<SlotResult> => {
  try {
    const expected = await readFileList(dir, slot, listSha256);
    if (expected === undefined) return refuse('WRITE_VERIFY', `the list of files of slot ${slot} is damaged`);
    const wrong =
      (await compareFolders(slotFolder(dir, slot), expected)) ??
      (await compareFiles(slotFolder(dir, slot), expected, signal));
    return wrong === undefined ? { ok: true } : refuse('WRITE_VERIFY', `slot ${slot}: ${wrong}`);
  } catch (error) {
    if (signal?.aborted === true) return STOPPED;
    const refused = storageRefusal(error, `slot ${slot} cannot be read`);
    return { ...refused, code: 'WRITE_VERIFY' };
  }
};

const readFileList = async (
  dir: string,
  slot: SlotName,
  listSha256: string,
): Promise<Map<string, TreeEntry> | undefined> => {
  const bytes = await readFile(fileListOf(dir, slot));
  if (createHash('sha256').update(bytes).digest('hex') !== listSha256) return undefined;
  const entries = new Map<string, TreeEntry>();
  for (const line of bytes.toString('utf8').split('\n')) {
    if (line === '') continue;
    const entry = TreeEntry.parse(JSON.parse(line));
    entries.set(entry.path, entry);
  }
  return entries;
};

/** Names, types and links; undefined when they are as listed, otherwise the first difference. */
const compareFolders = async (root: string, expected: Map<string, TreeEntry>): Promise<string | undefined> => {
  let met = 0;
  const folders = [''];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    for (const there of await readdir(join(root, folder), { withFileTypes: true })) {
      const path = posix.join(folder, there.name);
      const entry = expected.get(path);
      if (entry === undefined) return `${path} does not belong there`;
      met += 1;
      if (entry.kind === 'folder' && there.isDirectory()) folders.push(path);
      else if (entry.kind === 'link' && there.isSymbolicLink()) {
        if ((await readlink(join(root, path))) !== entry.to) return `${path} links to something else`;
      } else if (entry.kind !== 'file' || !there.isFile()) return `${path} is not a ${entry.kind}`;
    }
  }
  return met === expected.size ? undefined : `${expected.size - met} files, folders or links are missing`;
};

const compareFiles = async (
  root: string,
  expected: Map<string, TreeEntry>,
  signal: AbortSignal | undefined,
): Promise<string | undefined> => {
  const files = expected.values().filter((entry) => entry.kind === 'file');
  let wrong: string | undefined;
  const work = async (): Promise<void> => {
    const reader = openStoredReader();
    for (const entry of files) {
      if (wrong !== undefined) return;
      const file = join(root, entry.path);
      const { mode } = await lstat(file);
      const stored = await reader.hash(file, undefined, signal);
      const same = stored.bytes === entry.bytes && stored.sha256 === entry.sha256 && isMode(mode, entry);
      if (!same) wrong ??= `${entry.path} is not on the disk as it was written`;
    }
  };
  // All workers draw from the one iterator.
  await Promise.all(Array.from({ length: Math.min(READERS, expected.size) }, work));
  return wrong;
};

/**
 * An earlier build wrote down only whether the owner may execute it; and an application may well open a usual file to
 * others.
 */
const isMode = (mode: number, { mode: written, executable }: Extract<TreeEntry, { kind: 'file' }>): boolean =>
  written === undefined ? ((mode & 0o100) !== 0) === executable : (mode & 0o7777) === written;

/** The artifacts of the manifest with their files, or what is missing. */
export const matchArtifacts = async (
  manifest: Manifest,
  fetched: FetchedArtifact[],
): Promise<{ ok: true; artifacts: { artifact: Artifact; file: string }[] } | Refused> => {
  const artifacts: { artifact: Artifact; file: string }[] = [];
  for (const artifact of manifest.artifacts) {
    const { kind } = artifact.install;
    if (kind !== 'tree' && kind !== 'file')
      return refuse('PRECONDITION', `${artifact.name} is of the kind ${kind}, which does not go into a folder`);
    const file = fetched.find((one) => one.name === artifact.name)?.file;
    const there = file === undefined ? undefined : await stat(file).catch(() => undefined);
    if (file === undefined || there === undefined)
      return refuse('PRECONDITION', `${artifact.name} has not been fetched`);
    if (there.size !== artifact.bytes) return refuse('TARGET_HASH', `${artifact.name} has not the size it had`);
    artifacts.push({ artifact, file });
  }
  return { ok: true, artifacts };
};

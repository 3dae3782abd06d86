/**
 * A bundle is one tar file: `manifest.json`, then `artifacts/<name>` and `attachments/<name>` in the manifest's order, and
 * nothing else. Every byte around the bodies (headers, padding, end) follows from the manifest, so a bundle of given
 * contents has exactly one form: the reader computes that form and refuses anything that differs in a single bit.
 * Any tar program can list and unpack it. Both directions stream: memory does not grow with the bundle.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { rename, rm, stat } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { Transform } from 'node:stream';
import type { z } from 'zod';
import { openContentCheck } from './bundle-content.ts';
import { type BundlePart, partsOf } from './bundle-part.ts';
import { syncFolder } from './durable.ts';
import { Sha256 } from './ids.ts';
import { type Artifact, BUNDLE_BYTES_MAX, InstallKind, MANIFEST_BYTES_MAX, Manifest } from './manifest.ts';
import { manifestFaults } from './new-manifest.ts';
import { accept, type Refusal, type Result, refuse } from './problems.ts';
import { type AddTarEntry, TAR_BLOCK as BLOCK, packTar, tarHead } from './tar.ts';
import { type DescribedFile, describeFile } from './transfer/describe-file.ts';
import { type Lost, type TreeCompression, writeTree } from './tree.ts';
import { entryPath } from './tree-map.ts';
import { keptMode, usualMode } from './tree-mode.ts';
import { canonicalJson } from './trust/canonical.ts';

const END_BYTES = 2 * BLOCK;
const MANIFEST_NAME = 'manifest.json';
const ZEROS = Buffer.alloc(END_BYTES);
const entryName = (part: BundlePart): string => `${part.kind}s/${part.name}`;
const paddingOf = (bytes: number): number => (BLOCK - (bytes % BLOCK)) % BLOCK;

// ---- Reading

/** Carries a refusal out of a body that somebody else is reading, so that a sink never takes a bad part for a whole one. */
class BundleFault extends Error {
  readonly refusal: Refusal;
  constructor(refusal: Refusal) {
    super(refusal.detail);
    this.refusal = refusal;
  }
}
const fault = (code: Refusal['code'], detail: string): BundleFault => new BundleFault(refuse(code, detail));

export type BundleSink = {
  /** Called once, first, with the manifest's exact bytes. */
  manifest(bytes: Buffer, manifest: Manifest): Promise<void>;
  /**
   * Called for every part, in order. `body` throws at its end when size or digest are wrong: what a sink has read to the
   * end without an error is what the manifest pins. A body that is not read (to the end) is checked all the same.
   */
  part(part: BundlePart, body: AsyncIterable<Uint8Array>): Promise<void>;
};

/**
 * Reads and checks a bundle as it streams by. Refusals: `bundle-invalid` (not exactly this form, cut short, or something
 * after the end), `manifest-invalid`, `digest-mismatch`, `too-large`. After a refusal everything that the sink got must
 * be forgotten. Errors of the source or the sink themselves are thrown on.
 */
export const readBundle = async (
  source: AsyncIterable<Uint8Array>,
  sink: BundleSink,
): Promise<Result<{ manifest: Manifest; manifestBytes: Buffer }>> => {
  const reader = byteReader(source);
  try {
    const manifestBytes = await readManifestEntry(reader);
    const manifest = parseManifest(manifestBytes);
    if (bundleBytes(manifestBytes.length, manifest) > BUNDLE_BYTES_MAX) {
      throw fault('too-large', `a bundle may have at most ${BUNDLE_BYTES_MAX} bytes`);
    }
    await sink.manifest(manifestBytes, manifest);
    for (const part of partsOf(manifest)) {
      const head = await tarHead(entryName(part), part.bytes);
      await expectBytes(reader, head, `the entry ${entryName(part)} of ${part.bytes} bytes`);
      const body = checkedBody(reader, part);
      await sink.part(part, body.read());
      await body.finish();
      await expectBytes(reader, ZEROS.subarray(0, paddingOf(part.bytes)), `the padding of ${entryName(part)}`);
    }
    await expectBytes(reader, ZEROS, 'the end of the tar');
    if (!(await reader.ended())) throw fault('bundle-invalid', 'there is data after the end of the bundle');
    return accept({ manifest, manifestBytes });
  } catch (error) {
    if (error instanceof BundleFault) return error.refusal;
    throw error;
  } finally {
    await reader.close();
  }
};

/** Parse a manifest's bytes. Refusal: `manifest-invalid`, with every field that is wrong; `too-large`. */
const readManifest = (bytes: Uint8Array): Result<Manifest> => {
  if (bytes.length > MANIFEST_BYTES_MAX) return refuse('too-large', 'the manifest is larger than 256 KiB');
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    return refuse('manifest-invalid', 'the manifest is not JSON in UTF-8');
  }
  return checkManifest(json);
};

/** Of the right form, and fit to be published. */
const checkManifest = (json: unknown): Result<Manifest> => {
  const parsed = Manifest.safeParse(json);
  if (!parsed.success) return refuse('manifest-invalid', describeIssues(parsed.error));
  const faults = manifestFaults(parsed.data);
  return faults.length === 0 ? accept(parsed.data) : refuse('manifest-invalid', faults.slice(0, 20).join('; '));
};

const describeIssues = (error: z.ZodError): string =>
  error.issues
    .slice(0, 20)
    .map((issue) => `${issue.path.join('.') || 'manifest'}: ${issue.message}`)
    .join('; ');

const parseManifest = (bytes: Buffer): Manifest => {
  const result = readManifest(bytes);
  if (!result.ok) throw new BundleFault(result);
  return result.value;
};

type ByteReader = {
  /** Exactly `bytes` bytes, buffered. */
  take(bytes: number): Promise<Buffer>;
  /** Exactly `bytes` bytes as they come. */
  stream(bytes: number): AsyncGenerator<Uint8Array>;
  ended(): Promise<boolean>;
  close(): Promise<void>;
};

const byteReader = (source: AsyncIterable<Uint8Array>): ByteReader => {
  const iterator = source[Symbol.asyncIterator]();
  let rest: Uint8Array = ZEROS.subarray(0, 0);
  let done = false;
  const fill = async (): Promise<boolean> => {
    while (rest.length === 0 && !done) {
      const next = await iterator.next();
      if (next.done === true) done = true;
      else rest = next.value;
    }
    return rest.length > 0;
  };
  async function* stream(bytes: number): AsyncGenerator<Uint8Array> {
    let missing = bytes;
    while (missing > 0) {
      if (!(await fill())) throw fault('bundle-invalid', 'the bundle is cut short');
      const piece = rest.subarray(0, missing);
      rest = rest.subarray(piece.length);
      missing -= piece.length;
      yield piece;
    }
  }
  return {
    stream,
    take: async (bytes) => {
      const pieces: Uint8Array[] = [];
      for await (const piece of stream(bytes)) pieces.push(piece);
      return Buffer.concat(pieces, bytes);
    },
    ended: async () => !(await fill()),
    close: async () => {
      if (!done) await iterator.return?.();
    },
  };
};

/** The first entry's size is all that is not known beforehand: read it from the header, then hold the header against the one form it may have. */
const readManifestEntry = async (reader: ByteReader): Promise<Buffer> => {
  const head = await reader.take(BLOCK);
  const digits = /^([0-7]{11}) $/.exec(head.subarray(124, 136).toString('latin1'))?.[1];
  const bytes = digits === undefined ? Number.NaN : Number.parseInt(digits, 8);
  const wanted = Number.isSafeInteger(bytes) ? await tarHead(MANIFEST_NAME, bytes) : ZEROS;
  if (!head.equals(wanted)) throw fault('bundle-invalid', `this is not a bundle: ${beginningOf(head)}`);
  if (bytes > MANIFEST_BYTES_MAX) throw fault('too-large', 'the manifest is larger than 256 KiB');
  const manifest = await reader.take(bytes);
  await expectBytes(reader, ZEROS.subarray(0, paddingOf(bytes)), 'the padding of manifest.json');
  return manifest;
};

/** What somebody has in their hands instead: bundles are easily unpacked and packed again, or compressed. */
const beginningOf = (head: Buffer): string => {
  if (head.readUInt16BE(0) === 0x1f8b || head.readUInt32LE(0) === 0xfd2fb528)
    return 'it is compressed; publish the file that sluice bundle create made';
  const name = head.subarray(0, 100).toString('utf8').replace(/\0.*$/s, '');
  // Old tars have no magic number.
  const isTar = head.subarray(257, 262).toString('latin1') === 'ustar' || entryPath(name) === MANIFEST_NAME;
  if (!isTar) return 'it is no tar that begins with manifest.json';
  const isFile = [0, 0x30].includes(head[156]!);
  return isFile && entryPath(name) !== MANIFEST_NAME
    ? `it begins with ${JSON.stringify(name)}, not with manifest.json`
    : 'its tar was written by another program, and a bundle has exactly one form; publish the file that sluice bundle create made';
};

const expectBytes = async (reader: ByteReader, wanted: Buffer, what: string): Promise<void> => {
  if (!(await reader.take(wanted.length)).equals(wanted)) {
    throw fault('bundle-invalid', `the bundle does not continue with ${what}, as its manifest says`);
  }
};

const checkedBody = (reader: ByteReader, part: BundlePart) => {
  const hash = createHash('sha256');
  const bytes = reader.stream(part.bytes);
  let checked = false;
  async function* read(): AsyncGenerator<Uint8Array> {
    // By hand, because leaving a `for await` early would close the source that the rest is read from.
    for (let next = await bytes.next(); next.done !== true; next = await bytes.next()) {
      hash.update(next.value);
      yield next.value;
    }
    if (checked) return;
    checked = true;
    if (hash.digest('hex') !== part.sha256) {
      throw fault('digest-mismatch', `${entryName(part)} does not have the SHA-256 that the manifest names`);
    }
  }
  const finish = async (): Promise<void> => {
    for await (const _ of read());
  };
  return { read, finish };
};

const bundleBytes = (manifestBytes: number, manifest: Manifest): number => {
  const padded = (bytes: number) => 3 * BLOCK + bytes + paddingOf(bytes);
  return padded(manifestBytes) + partsOf(manifest).reduce((sum, part) => sum + padded(part.bytes), 0) + END_BYTES;
};

// ---- Writing

export type ArtifactSource =
  /** A file as it is; `install` says how it gets into the slot. */
  | { name: string; file: string; install: z.input<typeof InstallKind> }
  /** A folder, which becomes a deterministic tar and is unpacked at the root of the slot. */
  | { name: string; folder: string; compression?: TreeCompression };
export type AttachmentSource = { kind: 'sbom' | 'provenance' | 'notes' | 'other'; file: string; name?: string };

export type BundleDescription = {
  /** Every field of the manifest that does not describe a file. */
  manifest: Omit<z.input<typeof Manifest>, 'format' | 'artifacts' | 'attachments'>;
  artifacts: ArtifactSource[];
  attachments?: AttachmentSource[];
  /** The bundle; written beside it first, and there only when it is whole. */
  out: string;
  onProgress?: (bytesDone: number, bytesTotal: number) => void;
  /** Gets the names of files that are there only while this works, for a caller that a signal ends in the middle. */
  temporary?: string[];
};
export type CreatedBundle = {
  file: string;
  bytes: number;
  sha256: Sha256;
  manifest: Manifest;
  manifestBytes: Buffer;
  compressed: CompressedArtifact[];
  /** What devices do not get of the files that they do get: each kind of it once for each artifact. */
  lost: LostOfArtifact[];
};
export type LostOfArtifact = { artifact: string; what: string; files: number; first: string };
/** An artifact that deltas will be large for. */
export type CompressedArtifact = { name: string; how: string };

/**
 * Makes a bundle; the same input gives the same bytes. Refusals: `manifest-invalid` (with every wrong field), `too-large`,
 * `bundle-invalid` (an input file is missing, changed while it was read, or is of no kind that can travel).
 */
export const createBundle = async (description: BundleDescription): Promise<Result<CreatedBundle>> => {
  const work = `${description.out}.${randomUUID()}`;
  const temporary = description.temporary ?? [];
  try {
    const files: string[] = [];
    const compressed: CompressedArtifact[] = [];
    const lost = openLosses();
    let current = '';
    const content = openContentCheck((one) => lost.add(current, one));
    const artifacts: z.input<typeof Artifact>[] = [];
    for (const source of description.artifacts) {
      current = source.name;
      const prepared = await prepareArtifact(source, `${work}.${files.length}`, temporary, (one) =>
        lost.add(current, one),
      );
      const { file, part: found } = prepared;
      const { compressed: how, ...part } = found;
      const parsed = InstallKind.safeParse(prepared.install);
      if (!parsed.success)
        return refuse('manifest-invalid', `artifact ${source.name}: ${describeIssues(parsed.error)}`);
      const install = parsed.data;
      const { bytes } = part;
      const size = await content.artifact({ name: source.name, bytes, install }, () => createReadStream(file));
      if (!size.ok) return size;
      if (install.kind === 'tree' && size.value !== null) install.unpacked = size.value;
      files.push(file);
      if (how !== undefined) compressed.push({ name: source.name, how });
      artifacts.push({ name: source.name, ...part, install });
    }
    const attachments = [];
    for (const { kind, file, name } of description.attachments ?? []) {
      const { bytes, sha256 } = await described(file);
      files.push(file);
      attachments.push({ kind, name: name ?? basename(file), bytes, sha256 });
    }
    const checked = checkManifest({ ...description.manifest, format: 1, artifacts, attachments });
    if (!checked.ok) return checked;
    const ended = content.end(checked.value);
    if (!ended.ok) return ended;
    // With every default written out, so that the bundle means the same to a later version with other defaults.
    const manifest = checked.value;
    const manifestBytes = Buffer.from(canonicalJson(manifest));
    if (manifestBytes.length > MANIFEST_BYTES_MAX || bundleBytes(manifestBytes.length, manifest) > BUNDLE_BYTES_MAX) {
      return refuse('too-large', `a manifest may have ${MANIFEST_BYTES_MAX} bytes, a bundle ${BUNDLE_BYTES_MAX}`);
    }
    temporary.push(work);
    const written = await writeBundle(work, manifestBytes, manifest, files, description.onProgress);
    await rename(work, description.out);
    await syncFolder(dirname(description.out));
    return accept({ file: description.out, ...written, manifest, manifestBytes, compressed, lost: lost.all() });
  } catch (error) {
    if (error instanceof BundleFault) return error.refusal;
    throw error;
  } finally {
    for (const file of temporary) await rm(file, { force: true });
  }
};

type Digested = { bytes: number; sha256: Sha256 };

const prepareArtifact = async (
  source: ArtifactSource,
  work: string,
  temporary: string[],
  onLost: (lost: Lost) => void,
): Promise<{ file: string; part: DescribedFile; install: z.input<typeof InstallKind> }> => {
  if ('file' in source) {
    const part = await described(source.file);
    return { file: source.file, part, install: await withMode(source.file, source.install, onLost) };
  }
  // Uncompressed unless told: transfers compress by themselves, and deltas between compressed trees are several times larger.
  const compression = source.compression ?? 'none';
  temporary.push(work);
  const written = await writeTree(source.folder, compression, work, onLost);
  if (!written.ok) throw new BundleFault(written);
  return { file: work, part: await described(work), install: { kind: 'tree', compression } };
};

const described = async (file: string): Promise<DescribedFile> => {
  const result = await describeFile(file);
  if (!result.ok) throw new BundleFault(result);
  return result.value;
};

const writeBundle = async (
  file: string,
  manifestBytes: Buffer,
  manifest: Manifest,
  paths: string[],
  onProgress: BundleDescription['onProgress'],
): Promise<Digested> => {
  const hash = createHash('sha256');
  let bytes = 0;
  const total = bundleBytes(manifestBytes.length, manifest);
  const count = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      bytes += chunk.length;
      onProgress?.(bytes, total);
      done(null, chunk);
    },
  });
  const entryOf = (name: string, size: number) => ({ kind: 'file' as const, name, bytes: size, mode: 0o644 });
  const fill = async (add: AddTarEntry): Promise<void> => {
    await add(entryOf(MANIFEST_NAME, manifestBytes.length), oneChunk(manifestBytes));
    for (const [index, part] of partsOf(manifest).entries()) {
      await add(entryOf(entryName(part), part.bytes), verifiedFile(paths[index]!, part));
    }
  };
  await packTar(fill, [count], createWriteStream(file, { flush: true }));
  return { bytes, sha256: Sha256.parse(hash.digest('hex')) };
};

async function* oneChunk(bytes: Buffer): AsyncGenerator<Uint8Array> {
  yield bytes;
}

/** The file once more; it must still be what was digested. */
async function* verifiedFile(file: string, part: BundlePart): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file) as AsyncIterable<Buffer>) {
    hash.update(chunk);
    yield chunk;
  }
  if (hash.digest('hex') !== part.sha256) throw fault('bundle-invalid', `${file} changed while it was read`);
}

/** A file that is placed by itself keeps its mode where that is stricter than usual; whether it is executable its description says. */
const withMode = async (
  file: string,
  install: z.input<typeof InstallKind>,
  onLost: (lost: Lost) => void,
): Promise<z.input<typeof InstallKind>> => {
  if (install.kind !== 'file' || install.mode !== undefined) return install;
  const there = keptMode((await stat(file)).mode & 0o7777);
  for (const what of there.lost) onLost({ path: install.path, what });
  const executable = install.executable === true ? (there.mode & 0o444) >> 2 : 0;
  const mode = (there.mode & 0o644) | executable;
  return mode === usualMode(install.executable === true) ? install : { ...install, mode: `0${mode.toString(8)}` };
};

const openLosses = () => {
  const all = new Map<string, LostOfArtifact>();
  return {
    add: (artifact: string, { path, what }: Lost): void => {
      const key = `${artifact} ${what}`;
      const known = all.get(key);
      if (known === undefined) all.set(key, { artifact, what, files: 1, first: path });
      else known.files += 1;
    },
    all: (): LostOfArtifact[] => [...all.values()],
  };
};

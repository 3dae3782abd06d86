/** Making a bundle from files and folders: memory does not grow with the bundle. */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { rename, rm, stat } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { Transform } from 'node:stream';
import type { z } from 'zod';
import { openContentCheck } from './bundle-content.ts';
import {
  BundleFault,
  bundleBytes,
  checkManifest,
  describeIssues,
  entryName,
  fault,
  MANIFEST_NAME,
} from './bundle-form.ts';
import { type BundlePart, partsOf } from './bundle-part.ts';
import { syncFolder } from './durable.ts';
import { Sha256 } from './ids.ts';
import { type Artifact, BUNDLE_BYTES_MAX, InstallKind, MANIFEST_BYTES_MAX, Manifest } from './manifest.ts';
import { accept, type Result, refuse } from './problems.ts';
import { type AddTarEntry, packTar } from './tar.ts';
import { type DescribedFile, describeFile } from './transfer/describe-file.ts';
import { type Lost, type TreeCompression, writeTree } from './tree.ts';
import { keptMode, usualMode } from './tree-mode.ts';
import { canonicalJson } from './trust/canonical.ts';

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
 * Makes a bundle; the same input gives the same bytes. Refusals: `manifest-invalid` (with every wrong field),
 * `too-large`, `bundle-invalid` (an input file is missing, changed while it was read, or is of no kind that can
 * travel).
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
  // Uncompressed unless told: transfers compress by themselves, and deltas between compressed trees are several times
  // larger.
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

/**
 * A file that is placed by itself keeps its mode where that is stricter than usual; whether it is executable its
 * description says.
 */
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

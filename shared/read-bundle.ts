/** Reading a bundle, which is checked as it streams by: memory does not grow with the bundle. */
import { createHash } from 'node:crypto';
import {
  BundleFault,
  bundleBytes,
  checkManifest,
  entryName,
  fault,
  MANIFEST_NAME,
  paddingOf,
  ZEROS,
} from './bundle-form.ts';
import { type BundlePart, partsOf } from './bundle-part.ts';
import { BUNDLE_BYTES_MAX, MANIFEST_BYTES_MAX, Manifest } from './manifest.ts';
import { accept, type Result, refuse } from './problems.ts';
import { TAR_BLOCK as BLOCK, tarHead } from './tar.ts';
import { entryPath } from './tree-map.ts';

export type BundleSink = {
  /** Called once, first, with the manifest's exact bytes. */
  manifest(bytes: Buffer, manifest: Manifest): Promise<void>;
  /**
   * Called for every part, in order. `body` throws at its end when size or digest are wrong: what a sink has read to
   * the end without an error is what the manifest pins. A body that is not read (to the end) is checked all the same.
   */
  part(part: BundlePart, body: AsyncIterable<Uint8Array>): Promise<void>;
};

/**
 * Reads and checks a bundle as it streams by. Refusals: `bundle-invalid` (not exactly this form, cut short, or
 * something after the end), `manifest-invalid`, `digest-mismatch`, `too-large`. After a refusal everything that the
 * sink got must be forgotten. Errors of the source or the sink themselves are thrown on.
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

/**
 * The first entry's size is all that is not known beforehand: read it from the header, then hold the header against the
 * one form it may have.
 */
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

/** What someone has in their hands instead: bundles are easily unpacked and packed again, or compressed. */
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

/**
 * Unpacks a tar (plain, gzip or zstd) of which nothing is trusted: only files, folders and symbolic links that stay
 * inside, within limits; memory does not grow with it.
 */
import { pipeline, Transform } from 'node:stream';
import { extract, type Header } from 'tar-stream';
import type { DeviceErrorCode } from '#shared/deployment.ts';
import type { InstallKind } from '#shared/manifest.ts';
import type { TreeSize } from '#shared/tree-map.ts';
import { keptMode, usualMode } from '#shared/tree-mode.ts';
import { entryFault, treeDecompressor } from '#shared/tree-tar.ts';
import { errorCode, isSystemError, storageRefusal } from '../process/system-error.ts';
import { checkPath, TreeRefused, type TreeWriter } from './tree-writer.ts';

/** A streamx stream, which is not declared as iterable, but is. */
type Body = AsyncIterable<Uint8Array> & { resume(): unknown };
type Compression = Extract<InstallKind, { kind: 'tree' }>['compression'];

/** `tarBytesMax` bounds what decompressing may give; `unpacked` is what the tree is said to be. */
type UnpackLimits = { tarBytesMax: number; unpacked?: TreeSize | undefined };

/**
 * Throws only what aborts the writer. Codes: `ENDLESS_DATA` past these limits or the writer's own, `NO_SPACE`,
 * `WRITE_FAILED` for a tar that is damaged or holds what is not allowed, and for a failing disk. After a refusal the
 * folder holds a part of the tree.
 */
export const unpackTree = async (
  source: NodeJS.ReadableStream,
  compression: Compression,
  { tarBytesMax, unpacked }: UnpackLimits,
  writer: TreeWriter,
): Promise<{ ok: true } | { ok: false; code: DeviceErrorCode; message: string }> => {
  const tar = extract();
  let broken: unknown;
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a streamx stream: not node's class, but the same behaviour
  const sink = tar as unknown as NodeJS.WritableStream;
  const ended = new Promise<void>((resolve) => {
    pipeline([source, ...treeDecompressor(compression), limitBytes(tarBytesMax), sink], (error) => {
      broken ??= error ?? undefined;
      resolve();
    });
  });
  const count = counted(unpacked);
  try {
    for await (const entry of tar) {
      count(entry.header);
      // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- as above: it is iterable, though not declared so
      await unpackEntry(entry.header, entry as unknown as Body, writer);
    }
    await ended;
    if (broken !== undefined) throw broken;
    return { ok: true };
  } catch (error) {
    tar.destroy();
    await ended;
    // An error of the pipeline is the cause of the iterator's error, if there are both: but not of the disk's, which
    // ended the pipeline.
    const cause = error instanceof TreeRefused || isSystemError(error) || isAbort(error) ? error : (broken ?? error);
    if (isAbort(cause)) throw cause;
    if (cause instanceof TreeRefused) return { ok: false, code: cause.code, message: cause.message };
    const damaged = damageSentence(cause);
    return damaged === undefined
      ? storageRefusal(cause, 'the slot cannot be written')
      : { ok: false, code: 'WRITE_FAILED', message: `the tar is damaged: ${damaged}` };
  }
};

const isAbort = (error: unknown): boolean => error instanceof Error && error.name === 'AbortError';

const unpackEntry = async (header: Header, body: Body, writer: TreeWriter): Promise<void> => {
  const path = checkPath(header.name);
  const unfit = entryFault(header);
  if (unfit !== undefined) throw new TreeRefused('WRITE_FAILED', `${path} ${unfit}`);
  if (path === '' && header.type !== 'directory')
    throw new TreeRefused('WRITE_FAILED', 'the root of the slot cannot be a file or a link');
  const mode = header.mode === undefined ? undefined : keptMode(header.mode).mode;
  if (header.type === 'file') {
    await writer.file(path, { bytes: header.size ?? 0, mode: mode ?? usualMode(false) }, body);
    return;
  }
  body.resume();
  if (header.type === 'directory') await writer.folder(path, mode);
  else await writer.link(path, header.linkname ?? '');
};

/** Throws `TreeRefused` for the entry with which there is more than the manifest says. */
const counted = (unpacked: TreeSize | undefined): ((header: Header) => void) => {
  const met = { bytes: 0, entries: 0 };
  return ({ name, type, size }) => {
    if (unpacked === undefined) return;
    // Some programs write a size for folders and links, too.
    if (type === 'file') met.bytes += size ?? 0;
    if (checkPath(name) !== '') met.entries += 1;
    if (met.bytes <= unpacked.bytes && met.entries <= unpacked.entries) return;
    const said = `${unpacked.bytes} bytes in ${unpacked.entries} entries`;
    throw new TreeRefused('ENDLESS_DATA', `unpacks to more than its manifest says: ${said}`);
  };
};

const limitBytes = (bytesMax: number): Transform => {
  let bytes = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      if (bytes <= bytesMax) done(null, chunk);
      else done(new TreeRefused('ENDLESS_DATA', `unpacks to more than ${bytesMax} bytes`));
    },
  });
};

/**
 * What is wrong with the tar, if that is what is wrong: the decompressors' errors have their codes, the tar library's
 * none.
 */
const damageSentence = (error: unknown): string | undefined => {
  if (!(error instanceof Error)) return undefined;
  const code = errorCode(error);
  // Of exactly this class: a TypeError would be a bug of ours.
  if (code === '') return error.constructor === Error ? error.message : undefined;
  return /^(Z_|ZSTD_|ERR_ZSTD|ERR_STREAM)/.test(code) ? error.message : undefined;
};

/**
 * Unpacks a tar (plain, gzip or zstd) of which nothing is trusted: only files, folders and symbolic links that stay
 * inside, within limits; memory does not grow with it.
 */
import { pipeline, Transform } from 'node:stream';
import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import { extract, type Header } from 'tar-stream';
import type { DeviceErrorCode } from '#shared/deployment.ts';
import type { InstallKind } from '#shared/manifest.ts';
import { errorCode, storageRefusal } from './system-error.ts';
import { checkPath, TreeRefused, type TreeWriter } from './tree-writer.ts';

/** A streamx stream, which is not declared as iterable, but is. */
type Body = AsyncIterable<Uint8Array> & { resume(): unknown };
type Compression = Extract<InstallKind, { kind: 'tree' }>['compression'];

/**
 * `tarBytesMax` bounds what decompressing may give. Codes: `ENDLESS_DATA` past that or past the writer's own limits,
 * `NO_SPACE`, `WRITE_FAILED` for a tar that is damaged or holds what is not allowed, and for a failing disk. After a refusal the folder holds a part of the tree.
 */
export const unpackTree = async (
  source: NodeJS.ReadableStream,
  compression: Compression,
  tarBytesMax: number,
  writer: TreeWriter,
): Promise<{ ok: true } | { ok: false; code: DeviceErrorCode; message: string }> => {
  const tar = extract();
  let broken: unknown;
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- a streamx stream: not node's class, but the same behaviour
  const sink = tar as unknown as NodeJS.WritableStream;
  const ended = new Promise<void>((resolve) => {
    pipeline([source, ...decompressor(compression), limitBytes(tarBytesMax), sink], (error) => {
      broken ??= error ?? undefined;
      resolve();
    });
  });
  try {
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- as above: it is iterable, though not declared so
    for await (const entry of tar) await unpackEntry(entry.header, entry as unknown as Body, writer);
    await ended;
    if (broken !== undefined) throw broken;
    return { ok: true };
  } catch (error) {
    tar.destroy();
    await ended;
    // An error of the pipeline is the cause of the iterator's error, if there are both.
    const cause = error instanceof TreeRefused ? error : (broken ?? error);
    if (cause instanceof TreeRefused) return { ok: false, code: cause.code, message: cause.message };
    const damaged = damageSentence(cause);
    return damaged === undefined
      ? storageRefusal(cause, 'the slot can not be written')
      : { ok: false, code: 'WRITE_FAILED', message: `the tar is damaged: ${damaged}` };
  }
};

const unpackEntry = async (header: Header, body: Body, writer: TreeWriter): Promise<void> => {
  const path = checkPath(header.name);
  if (header.type === 'file' && path !== '') {
    // Set-user-id, group and other bits are nobody's business here.
    const executable = ((header.mode ?? 0) & 0o111) !== 0;
    await writer.file(path, { bytes: header.size ?? 0, executable }, body);
    return;
  }
  body.resume();
  if (header.type === 'directory') await writer.folder(path);
  else if (header.type === 'symlink' && path !== '') await writer.link(path, header.linkname ?? '');
  else throw new TreeRefused('WRITE_FAILED', `${path}: a ${header.type ?? 'thing of unknown type'} is not allowed`);
};

const decompressor = (compression: Compression): NodeJS.ReadWriteStream[] => {
  if (compression === 'none') return [];
  if (compression === 'gzip') return [createGunzip({ chunkSize: 256 * 1024 })];
  // 8 MiB, which RFC 8878 (3.1.1.1.2) asks every decoder to support, is also the most that a device should give.
  return [createZstdDecompress({ chunkSize: 256 * 1024, params: { [constants.ZSTD_d_windowLogMax]: 23 } })];
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

/** What is wrong with the tar, if that is what is wrong: the decompressors' errors have their codes, the tar library's none. */
const damageSentence = (error: unknown): string | undefined => {
  if (!(error instanceof Error)) return undefined;
  const code = errorCode(error);
  // Of exactly this class: a TypeError would be a bug of ours.
  if (code === '') return error.constructor === Error ? error.message : undefined;
  return /^(Z_|ZSTD_|ERR_ZSTD|ERR_STREAM)/.test(code) ? error.message : undefined;
};

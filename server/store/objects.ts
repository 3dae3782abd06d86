/**
 * Artifacts and attachments as files named by their SHA-256: `objects/ab/abcd...`. An object appears whole or not at
 * all: it is written in `staging/`, flushed, and renamed into place. Only digests and names made here become paths.
 */
import { createHash, randomUUID } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { syncFolder } from '#shared/durable.ts';
import { Sha256 } from '#shared/ids.ts';
import { oneAtATime } from '#shared/in-turn.ts';
import { accept, type Refusal, type Result, refuse } from '#shared/problems.ts';

/** Bytes that arrived whole, not yet an object. The caller either keeps or drops it. */
export type StagedObject = { sha256: Sha256; bytes: number; file: string };
/** First and last byte, both included, from 0. */
type ByteRange = { start: number; end: number };

export type Objects = {
  /**
   * Writes a stream to staging and hashes it on the way. Refuses `too-large` above `bytesMax`, `digest-mismatch` when
   * `sha256` was given and is not that of the bytes, `insufficient-storage` when the disk is full; throws what the
   * source throws. Nothing is left behind unless it is accepted.
   */
  stage(source: AsyncIterable<Uint8Array>, limit: { bytesMax: number; sha256?: Sha256 }): Promise<Result<StagedObject>>;
  /**
   * The same for a file that `write` makes at the path that it is given, and says the digest and size of: a worker
   * thread, say. Refuses `insufficient-storage`, and throws what `write` throws.
   */
  produce(write: (file: string) => Promise<{ sha256: Sha256; bytes: number }>): Promise<Result<StagedObject>>;
  /** Makes it an object, durably. Keeping the same bytes again, staged twice or once, is fine. */
  keep(staged: StagedObject): Promise<void>;
  drop(staged: StagedObject): Promise<void>;
  /** Undefined when there is no such object; throws a `RangeError` when the range is not within it. */
  open(sha256: Sha256, range?: ByteRange): Promise<{ bytes: number; stream: Readable } | undefined>;
  size(sha256: Sha256): Promise<number | undefined>;
  /** Of something derived that nothing refers to any more. Readers keep what they opened. */
  remove(sha256: Sha256): Promise<void>;
  /**
   * Removes objects that are not in `keep`, and what uploads of an earlier process left in staging; returns how many
   * files. Spares what was kept in the last `graceMs`, and since the sweep before: the record that refers to it may
   * just be in the making, or a device may be in the middle of fetching it.
   */
  sweep(keep: ReadonlySet<Sha256>, graceMs?: number): Promise<number>;
};

/** Where the data folder `dir` keeps an object. */
export const objectFile = (dir: string, sha256: string): string => join(dir, 'objects', sha256.slice(0, 2), sha256);

const DIGEST = /^[0-9a-f]{64}$/;
const codeOf = (error: unknown): unknown => (error instanceof Error && 'code' in error ? error.code : undefined);

/** The refusal that a failed write deserves, if it is an expected one: no space, or no quota. */
export const refusalOf = (error: unknown): Refusal | undefined =>
  ['ENOSPC', 'EDQUOT'].includes(String(codeOf(error)))
    ? refuse('insufficient-storage', 'the disk that holds the artifacts is full')
    : undefined;

/** Copies, bounded, and says what came: undefined when it is more than `bytesMax`. */
const copy = async (
  source: AsyncIterable<Uint8Array>,
  handle: FileHandle,
  bytesMax: number,
): Promise<{ sha256: Sha256; bytes: number } | undefined> => {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const chunk of source) {
    bytes += chunk.length;
    if (bytes > bytesMax) return undefined;
    hash.update(chunk);
    // A write may be short when the disk fills up: `writeFile` goes on until all is written or it fails.
    await handle.writeFile(chunk);
  }
  return { sha256: Sha256.parse(hash.digest('hex')), bytes };
};

const copyAndClose: typeof copy = async (source, handle, bytesMax) => {
  try {
    return await copy(source, handle, bytesMax);
  } finally {
    await handle.close();
  }
};

const syncFile = async (file: string): Promise<void> => {
  const handle = await open(file, 'r+');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
};

/** By the file system's clock; a file that is not there is as old as can be. */
const ageMs = async (file: string): Promise<number> => {
  const there = await stat(file).catch(() => undefined);
  return there === undefined ? Number.POSITIVE_INFINITY : Date.now() - there.mtimeMs;
};

/** Opens or makes the two folders inside `dir`. */
export const openObjects = async (dir: string): Promise<Objects> => {
  const staging = join(dir, 'staging');
  const objects = join(dir, 'objects');
  await mkdir(staging, { recursive: true });
  await mkdir(objects, { recursive: true });
  /** Files in staging that someone in this process still works with, or answers for. */
  const live = new Set<string>();
  let fresh = new Set<Sha256>();
  /** Keeping and sweeping take turns: otherwise a sweep could remove what is just being kept again. */
  const inTurn = oneAtATime();

  const fileOf = (sha256: string): string => objectFile(dir, sha256);
  const remove = async (file: string): Promise<void> => {
    await rm(file, { force: true });
    live.delete(file);
  };

  /** Whatever goes wrong, nothing stays. */
  const inStaging = async (
    work: (file: string) => Promise<Result<{ sha256: Sha256; bytes: number }>>,
  ): Promise<Result<StagedObject>> => {
    const file = join(staging, randomUUID());
    live.add(file);
    let accepted = false;
    try {
      const made = await work(file);
      accepted = made.ok;
      return made.ok ? accept({ ...made.value, file }) : made;
    } catch (error) {
      const refusal = refusalOf(error);
      if (refusal === undefined) throw error;
      return refusal;
    } finally {
      if (!accepted) await remove(file);
    }
  };
  const stage: Objects['stage'] = (source, limit) =>
    inStaging(async (file) => {
      const handle = await open(file, 'wx', 0o600);
      const copied = await copyAndClose(source, handle, limit.bytesMax);
      if (copied === undefined) return refuse('too-large', `more than the allowed ${limit.bytesMax} bytes`);
      if (limit.sha256 !== undefined && limit.sha256 !== copied.sha256)
        return refuse('digest-mismatch', `expected SHA-256 ${limit.sha256}, received ${copied.sha256}`);
      return accept(copied);
    });

  const size: Objects['size'] = async (sha256) => {
    if (!DIGEST.test(sha256)) return undefined;
    try {
      return (await stat(fileOf(sha256))).size;
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return undefined;
      throw error;
    }
  };

  const keepNow: Objects['keep'] = async (staged) => {
    const target = fileOf(staged.sha256);
    fresh.add(staged.sha256);
    if (!live.has(staged.file) && (await size(staged.sha256)) === staged.bytes) return;
    // From now on it counts as young, however long it waited in staging.
    const now = new Date();
    await utimes(staged.file, now, now);
    await syncFile(staged.file);
    if ((await mkdir(dirname(target), { recursive: true })) !== undefined) await syncFolder(objects);
    // Over whatever is there: the same bytes, or a damaged copy that this one heals. Readers keep what they opened.
    await rename(staged.file, target);
    live.delete(staged.file);
    await syncFolder(dirname(target));
  };

  const openObject: Objects['open'] = async (sha256, range) => {
    if (!DIGEST.test(sha256)) return undefined;
    let handle: FileHandle;
    try {
      handle = await open(fileOf(sha256), 'r');
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return undefined;
      throw error;
    }
    const bytes = (await handle.stat()).size;
    if (range !== undefined && !(range.start >= 0 && range.start <= range.end && range.end < bytes)) {
      await handle.close();
      throw new RangeError(`bytes ${range.start}-${range.end} are not within the ${bytes} of ${sha256}`);
    }
    return { bytes, stream: handle.createReadStream({ highWaterMark: 256 * 1024, ...range }) };
  };

  const sweep: Objects['sweep'] = async (wanted, graceMs = 0) => {
    const spared = fresh;
    fresh = new Set();
    let removed = 0;
    for (const file of (await readdir(staging)).map((name) => join(staging, name))) {
      if (live.has(file)) continue;
      await rm(file, { force: true });
      removed += 1;
    }
    const folders = (await readdir(objects)).filter((name) => /^[0-9a-f]{2}$/.test(name));
    for (const folder of folders)
      for (const name of await readdir(join(objects, folder))) {
        const sha256 = Sha256.safeParse(name).data;
        if (sha256 === undefined) continue;
        await inTurn(async () => {
          if ([wanted, spared, fresh].some((needed) => needed.has(sha256))) return;
          if (graceMs > 0 && (await ageMs(fileOf(sha256))) < graceMs) return;
          await rm(fileOf(sha256), { force: true });
          removed += 1;
        });
      }
    return removed;
  };

  return {
    stage,
    produce: (write) => inStaging(async (file) => accept(await write(file))),
    remove: (sha256) => inTurn(() => rm(fileOf(sha256), { force: true })),
    keep: (staged) => inTurn(() => keepNow(staged)),
    drop: (staged) => remove(staged.file),
    open: openObject,
    size,
    sweep,
  };
};

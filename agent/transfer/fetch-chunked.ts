/** Fetches one artifact whose manifest pins its chunk index: as little of it as possible. */
import { mkdir, rename, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { DeviceErrorCode } from '#shared/deployment.ts';
import { deviceRoutes, objectPath } from '#shared/device-api.ts';
import { readFileIfThere, syncFolder } from '#shared/durable.ts';
import type { Artifact } from '#shared/manifest.ts';
import { type ChunkRecord, chunksLacking, parseIndex } from '#shared/transfer/chunk-index.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { packPays } from '../domain/pack-worth.ts';
import type { Log } from '../log.ts';
import { crashPoint } from '../process/crash-point.ts';
import { storageRefusal } from '../process/system-error.ts';
import type { Http } from '../server/http.ts';
import { type ByteStream, type FetchLimits, openStream, type StreamOptions } from '../server/stream.ts';
import { TransferError } from '../server/transfer-error.ts';
import { assemble, type Origins } from './assemble.ts';
import { writeHint } from './hint.ts';
import { openPackSource, type PackOptions, type PackSource } from './pack-source.ts';
import type { Seed } from './seeds.ts';

const INDEX_ATTEMPTS_MAX = 60;
/** More cannot be asked for in one request, nor held. */
const SEEDS_MAX = 8;

export type ChunkedArtifact = Artifact & { chunks: NonNullable<Artifact['chunks']> };
export const isChunked = (artifact: Artifact): artifact is ChunkedArtifact => artifact.chunks !== undefined;

export type ChunkedOptions = {
  http: Pick<Http, 'get' | 'getJson'>;
  artifact: ChunkedArtifact;
  /** For what is only needed until the artifact is complete, and for the artifact itself if it has no other place. */
  dir: string;
  /** Where the slot wants it; it becomes `<dir>/<sha256>` otherwise. */
  place: string | null;
  seeds: readonly Seed[];
  signal: AbortSignal;
  pause: (attempt: number, signal: AbortSignal) => Promise<unknown>;
  /** Waits until so many bytes may be fetched. */
  mayFetch: (bytes: number) => Promise<boolean>;
  onProgress: (bytesDone: number) => void;
  /** Bytes that came over the network. */
  onBytes: (bytes: number) => void;
  /** What the network gave was wrong or late. */
  onTrouble: () => void;
  log: Log;
  limits?: FetchLimits;
};

export type ChunkedResult =
  | { ok: true; file: string; index: Buffer; origins: Origins }
  | { ok: false; code: DeviceErrorCode; message: string };

/** `FETCH_FAILED` when aborted. What is complete is not fetched again. */
export const fetchChunked = async (options: ChunkedOptions): Promise<ChunkedResult> => {
  const { artifact, dir, place } = options;
  const whole = join(dir, artifact.sha256);
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const index = await readIndex(options);
    const parsed = parseIndex(index, { artifactBytes: artifact.bytes });
    if (!parsed.ok) return { ok: false, code: 'TARGET_HASH', message: `the chunk index: ${parsed.why}` };
    crashPoint('fetch.index');
    // Complete already: it is hashed chunk by chunk like everything that is there.
    const done = place === null && (await stat(whole).catch(() => undefined)) !== undefined;
    const file = place ?? (done ? whole : `${whole}.part`);
    const assembled = await assemble({
      artifact,
      records: parsed.records,
      destination: { file, own: place === null },
      seeds: options.seeds.slice(0, SEEDS_MAX),
      pack: (given) => openPack(options, parsed.records, given),
      open: (path, start, end, bytes, zstd) => openObject(options, { path, start, end, bytes, zstd }),
      signal: options.signal,
      pause: options.pause,
      onProgress: options.onProgress,
      onFlushed: () => crashPoint('fetch.flushed'),
      onTrouble: ({ code, message, attempts }) => {
        options.onTrouble();
        const said = `${artifact.name}: ${message}; trying again`;
        options.log.info({ event: 'fetch-retried', code, attempts }, said);
      },
    });
    if (!assembled.ok) return assembled;
    if (file !== whole && place === null) {
      await rename(file, whole);
      await syncFolder(dir);
    }
    return { ok: true, file: place ?? whole, index, origins: assembled.origins };
  } catch (error) {
    if (error instanceof TransferError) return { ok: false, code: error.code, message: error.message };
    return storageRefusal(error, `${basename(whole)} cannot be kept`);
  }
};

const openObject = async (
  options: ChunkedOptions,
  wanted: Pick<StreamOptions, 'path' | 'start' | 'end' | 'bytes' | 'zstd'>,
): Promise<ByteStream> => {
  if (!(await options.mayFetch(wanted.end - wanted.start)))
    throw new TransferError('FETCH_FAILED', 'the link is metered, and the offer is at its end', { retry: false });
  return openStream({ ...options, get: options.http.get, ...wanted, limits: options.limits ?? {} });
};

/** From the disk if an earlier attempt has left it there: its digest says whether it is right. Throws TransferError. */
const readIndex = async (options: ChunkedOptions): Promise<Buffer> => {
  const { artifact, dir, signal, log } = options;
  const { index, bytes } = artifact.chunks;
  const file = join(dir, `${index}.index`);
  const kept = await readFileIfThere(file);
  if (kept?.length === bytes && sha256Hex(kept) === index) return kept;
  for (let attempt = 1; ; attempt += 1) {
    try {
      const stream = await openObject(options, { path: objectPath(index), start: 0, end: bytes, bytes });
      try {
        const fetched = await stream.take(bytes);
        if (sha256Hex(fetched) !== index)
          throw new TransferError('TARGET_HASH', 'the chunk index is not the one that was signed');
        await writeHint(file, fetched);
        return fetched;
      } finally {
        stream.close();
      }
    } catch (error) {
      if (!(error instanceof TransferError) || !error.retry || attempt >= INDEX_ATTEMPTS_MAX || signal.aborted)
        throw error;
      options.onTrouble();
      log.info(
        { event: 'fetch-retried', code: error.code, attempts: attempt },
        `${artifact.name}: ${error.message}; trying again`,
      );
      await options.pause(attempt, signal);
    }
  }
};

/** Null: the server has none that helps, or none at all; chunks are then fetched without. */
const openPack = async (
  options: ChunkedOptions,
  records: readonly ChunkRecord[],
  { recent, lacks }: Pick<PackOptions, 'recent' | 'lacks'>,
): Promise<PackSource | null> => {
  const { artifact, dir, http, seeds, signal, log } = options;
  const { path, answer } = deviceRoutes.pack;
  const query = new URLSearchParams([['to', artifact.chunks.index]]);
  for (const { index } of seeds.slice(0, SEEDS_MAX)) query.append('from', index);
  const told = await http.getJson(`${path}?${query.toString()}`, answer, signal);
  if (!told.ok) log.info({ event: 'no-pack', code: told.code }, `${artifact.name}: no pack: ${told.message}`);
  const pack = told.ok ? told.value.pack : null;
  if (pack === null) return null;
  const seed = seeds.find(({ index }) => index === pack.from) ?? null;
  if (pack.from !== null && seed === null) return null;
  const held = chunksLacking(records, seed?.records ?? []);
  const offer = { bytes: pack.bytes, delta: seed !== null, chunks: held.length, chunkBytes: bytesOf(held) };
  const lacking = held.filter(({ chunk }) => lacks(chunk));
  if (!packPays(offer, bytesOf(lacking))) return null;
  return openPackSource({
    bytes: pack.bytes,
    holds: held.length,
    all: lacking.length === held.length,
    to: artifact.chunks.index,
    records,
    seed,
    tableFile: join(dir, `${pack.sha256}.table`),
    lacks,
    open: (start, end) => openObject(options, { path: objectPath(pack.sha256), start, end, bytes: pack.bytes }),
    recent,
  });
};
const bytesOf = (chunks: readonly { record: ChunkRecord }[]): number =>
  chunks.reduce((sum, { record }) => sum + record.bytes, 0);

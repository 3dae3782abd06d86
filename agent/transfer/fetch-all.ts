/** Fetches every artifact of a manifest, one after the other, trying again with a finite budget. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { DeviceErrorCode } from '#shared/deployment.ts';
import type { Artifact } from '#shared/manifest.ts';
import type { Log } from '../log.ts';
import { crashPoint } from '../process/crash-point.ts';
import type { Http } from '../server/http.ts';
import { fetchArtifact } from './fetch.ts';
import { type ChunkedArtifact, fetchChunked, isChunked } from './fetch-chunked.ts';
import type { Progress } from './last-transfer.ts';
import type { Seed } from './seeds.ts';

/** In a row without one new byte. With the longest wait of a minute that is about half an hour. */
const ATTEMPTS_MAX = 60;
/** Of one artifact whose bytes hash wrong: a damaged line is possible, a damaged object likelier. */
const WRONG_HASHES_MAX = 3;

export type FetchAllOptions = {
  http: Pick<Http, 'get' | 'getJson' | 'distrustCache'>;
  artifacts: Artifact[];
  /** Where those are written that have no place of their own, by name. */
  dir: string;
  places: ReadonlyMap<string, string>;
  /** What the device holds already. */
  seeds: readonly Seed[];
  signal: AbortSignal;
  /** Waits before the given attempt. */
  pause: (attempt: number, signal: AbortSignal) => Promise<unknown>;
  /** Waits until `bytes` more may be fetched after `fetched`; false: not in time. */
  mayFetch: (fetched: number, bytes: number) => Promise<boolean>;
  onProgress: (progress: Progress) => void;
  log: Log;
};

type Fetched = { ok: true } | { ok: false; code: DeviceErrorCode; message: string };

/** `FETCH_FAILED` when aborted, and what `fetchArtifact` and `fetchChunked` say when the budget is used up. */
export const fetchAll = async (options: FetchAllOptions): Promise<Fetched> => {
  const bytesTotal = options.artifacts.reduce((sum, { bytes }) => sum + bytes, 0);
  let bytesBefore = 0;
  let bytesFetched = 0;
  const onProgress = (bytesDone: number): void => {
    options.onProgress({ bytesDone: bytesBefore + bytesDone, bytesTotal, bytesFetched });
    if (bytesBefore + bytesDone > bytesTotal / 2) crashPoint('fetch.half');
  };
  for (const artifact of options.artifacts) {
    const one = {
      ...options,
      mayFetch: (bytes: number) => options.mayFetch(bytesFetched, bytes),
      onProgress,
      onBytes: (bytes: number) => {
        bytesFetched += bytes;
      },
    };
    const fetched = isChunked(artifact) ? await fetchPieces(one, artifact) : await fetchWhole(one, artifact);
    if (!fetched.ok) return fetched;
    crashPoint(`fetch.${artifact.name}`);
    bytesBefore += artifact.bytes;
  }
  options.onProgress({ bytesDone: bytesTotal, bytesTotal, bytesFetched });
  return { ok: true };
};

type One = Omit<FetchAllOptions, 'mayFetch' | 'onProgress'> & {
  mayFetch: (bytes: number) => Promise<boolean>;
  onProgress: (bytesDone: number) => void;
  onBytes: (bytes: number) => void;
};

const fetchPieces = async (options: One, artifact: ChunkedArtifact): Promise<Fetched> => {
  let bytesFetched = 0;
  const result = await fetchChunked({
    ...options,
    artifact,
    place: options.places.get(artifact.name) ?? null,
    onBytes: (bytes) => {
      bytesFetched += bytes;
      options.onBytes(bytes);
    },
    onTrouble: options.http.distrustCache,
  });
  if (!result.ok) return result;
  const { name, bytes } = artifact;
  options.log.info(
    { event: 'artifact-fetched', artifact: name, bytes, bytesFetched, ...result.origins },
    `${name}: ${bytesFetched} bytes fetched for ${bytes}`,
  );
  return result;
};

/** An artifact without an index: all of it, as one object. */
const fetchWhole = async (options: One, artifact: Artifact): Promise<Fetched> => {
  const { dir, signal, log } = options;
  let mostBytes = 0;
  let attempts = 0;
  let wrongHashes = 0;
  for (;;) {
    if (!(await options.mayFetch(artifact.bytes)))
      return { ok: false, code: 'FETCH_FAILED', message: 'the link is metered, and the offer is at its end' };
    const result = await fetchArtifact({
      get: options.http.get,
      artifact,
      dir,
      signal,
      onProgress: (bytesDone) => {
        if (bytesDone > mostBytes) {
          mostBytes = bytesDone;
          attempts = 0;
        }
        options.onProgress(bytesDone);
      },
      onBytes: options.onBytes,
    });
    if (result.ok) return result;
    if (!result.retry || signal.aborted) return result;
    options.http.distrustCache();
    attempts += 1;
    if (result.code === 'TARGET_HASH') wrongHashes += 1;
    if (attempts >= ATTEMPTS_MAX || wrongHashes >= WRONG_HASHES_MAX) {
      // Nothing of it is worth keeping, and it may be what fills the disk.
      await rm(join(dir, `${artifact.sha256}.part`), { force: true });
      return result;
    }
    log.info(
      { event: 'fetch-retried', code: result.code, attempts },
      `${artifact.name}: ${result.message}; trying again`,
    );
    await options.pause(attempts, signal);
    if (signal.aborted) return { ok: false, code: 'FETCH_FAILED', message: 'stopped' };
  }
};

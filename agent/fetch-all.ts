/** Fetches every artifact of a manifest, one after the other, trying again with a finite budget. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { DeviceErrorCode } from '#shared/deployment.ts';
import type { Artifact } from '#shared/manifest.ts';
import { crashPoint } from './crash-point.ts';
import { fetchArtifact } from './fetch.ts';
import type { Log } from './log.ts';
import type { HttpGet } from './request.ts';

/** In a row without one new byte. With the longest wait of a minute that is about half an hour. */
const ATTEMPTS_MAX = 60;
/** Of one artifact whose bytes hash wrong: a damaged line is possible, a damaged object likelier. */
const WRONG_HASHES_MAX = 3;

export type FetchAllOptions = {
  get: HttpGet;
  artifacts: Pick<Artifact, 'name' | 'bytes' | 'sha256'>[];
  dir: string;
  signal: AbortSignal;
  /** Waits before the given attempt. */
  pause(attempt: number, signal: AbortSignal): Promise<unknown>;
  onProgress(bytesDone: number, bytesTotal: number): void;
  log: Log;
};

/** `FETCH_FAILED` when aborted, and what `fetchArtifact` says when the budget is used up. */
export const fetchAll = async (
  options: FetchAllOptions,
): Promise<{ ok: true } | { ok: false; code: DeviceErrorCode; message: string }> => {
  const bytesTotal = options.artifacts.reduce((sum, { bytes }) => sum + bytes, 0);
  let bytesBefore = 0;
  for (const artifact of options.artifacts) {
    const fetched = await fetchOne(options, artifact, bytesBefore, bytesTotal);
    if (!fetched.ok) return fetched;
    crashPoint(`fetch.${artifact.name}`);
    bytesBefore += artifact.bytes;
  }
  return { ok: true };
};

const fetchOne = async (
  options: FetchAllOptions,
  artifact: FetchAllOptions['artifacts'][number],
  bytesBefore: number,
  bytesTotal: number,
): Promise<{ ok: true } | { ok: false; code: DeviceErrorCode; message: string }> => {
  const { dir, signal, log } = options;
  let mostBytes = 0;
  let attempts = 0;
  let wrongHashes = 0;
  for (;;) {
    const result = await fetchArtifact({
      get: options.get,
      artifact,
      dir,
      signal,
      onProgress: (bytesDone) => {
        if (bytesDone > mostBytes) {
          mostBytes = bytesDone;
          attempts = 0;
        }
        options.onProgress(bytesBefore + bytesDone, bytesTotal);
        if (bytesBefore + bytesDone > bytesTotal / 2) crashPoint('fetch.half');
      },
    });
    if (result.ok) return result;
    if (!result.retry || signal.aborted) return result;
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

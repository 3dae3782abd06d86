/** Downloads one artifact by its digest, resuming what is there, trusting nothing but its SHA-256. */
import type { DeviceErrorCode } from '#shared/deployment.ts';
import type { Artifact } from '#shared/manifest.ts';

/** A GET that adds the server's address and the login. Redirects are the caller's choice; the body is not decoded. */
export type HttpGet = (path: string, headers: Record<string, string>, signal: AbortSignal) => Promise<Response>;

export type FetchLimits = {
  /** Until the answer's headers are there. Default 30,000. */
  headersMs?: number;
  /** Every `windowMs` must bring `windowBytesMin` bytes, or else SLOW_RETRIEVAL. Default 30,000 and 30 KiB. */
  windowMs?: number;
  windowBytesMin?: number;
};

/** `retry`: asking again later may help (the network, the server, damaged bytes); otherwise the same again would fail the same. */
export type FetchResult =
  | { ok: true; file: string }
  | { ok: false; code: DeviceErrorCode; message: string; retry: boolean };

export type FetchOptions = {
  get: HttpGet;
  artifact: Pick<Artifact, 'bytes' | 'sha256'>;
  /** The artifact becomes `<dir>/<sha256>`; while it is incomplete `<dir>/<sha256>.part`. */
  dir: string;
  signal: AbortSignal;
  /** Bytes of this artifact that are on disk; called at most a few times a second, and at the end. */
  onProgress?(bytesDone: number): void;
  limits?: FetchLimits;
};

/**
 * One attempt, which resumes what an earlier one left; the caller repeats with backoff. A file that is complete and
 * hashes right is not fetched again. Codes: `FETCH_FAILED` (also when aborted, with `retry: false`),
 * `SLOW_RETRIEVAL`, `ENDLESS_DATA`, `TARGET_HASH`, `NO_SPACE`, `WRITE_FAILED`.
 */
export const fetchArtifact = async (_options: FetchOptions): Promise<FetchResult> => {
  throw new Error('not built yet');
};

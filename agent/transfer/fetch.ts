/** Downloads one artifact by its digest, resuming what is there, trusting nothing but its SHA-256. */
import { createHash, type Hash } from 'node:crypto';
import { type FileHandle, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { DeviceErrorCode } from '#shared/deployment.ts';
import { objectPath } from '#shared/device-api.ts';
import { readFileIfThere, syncFolder } from '#shared/durable.ts';
import type { Artifact } from '#shared/manifest.ts';
import { readChunks, writeHashed } from '../disk/hashed-write.ts';
import { failedCall, storageRefusal } from '../process/system-error.ts';
import type { HttpAnswer, HttpGet } from '../server/request.ts';
import type { FetchLimits } from '../server/stream.ts';

/**
 * `retry`: asking again later may help (the network, the server, damaged bytes); otherwise the same again would fail
 * the same.
 */
export type FetchResult =
  | { ok: true; file: string }
  | { ok: false; code: DeviceErrorCode; message: string; retry: boolean };
type Failed = Extract<FetchResult, { ok: false }>;

export type FetchOptions = {
  get: HttpGet;
  artifact: Pick<Artifact, 'bytes' | 'sha256'>;
  /** The artifact becomes `<dir>/<sha256>`; while it is incomplete `<dir>/<sha256>.part`. Made if it is not there. */
  dir: string;
  signal: AbortSignal;
  /** Bytes of this artifact that are in the file; called with every mebibyte and at the end. */
  onProgress?(bytesDone: number): void;
  /** Called with every piece from the network. */
  onBytes?(bytes: number): void;
  limits?: FetchLimits;
};

const fail = (code: DeviceErrorCode, message: string, retry = true): Failed => ({ ok: false, code, message, retry });

/**
 * One attempt, which resumes what an earlier one left; the caller repeats with backoff while `retry`. A file that is
 * complete and hashes right is not fetched again. Codes: `FETCH_FAILED` (also when aborted, with `retry: false`),
 * `SLOW_RETRIEVAL`, `ENDLESS_DATA`, `TARGET_HASH`, `NO_SPACE`, `WRITE_FAILED`.
 */
export const fetchArtifact = async (options: FetchOptions): Promise<FetchResult> => {
  const file = join(options.dir, options.artifact.sha256);
  try {
    await mkdir(options.dir, { recursive: true });
    if (await isComplete(file, options.artifact)) {
      options.onProgress?.(options.artifact.bytes);
      return { ok: true, file };
    }
    const handle = await open(`${file}.part`, 'a+', 0o600);
    try {
      const filled = await fillPart(handle, `${file}.part`, options);
      if (!filled.ok) return filled;
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(`${file}.part`, file);
    await rm(`${file}.etag`, { force: true });
    await syncFolder(options.dir);
    return { ok: true, file };
  } catch (error) {
    const { code, message } = storageRefusal(error, 'the download cannot be kept');
    // Space may come back when something else is cleaned up; the caller's number of attempts is what bounds it.
    return fail(code, message, code === 'NO_SPACE');
  }
};

const isComplete = async (file: string, artifact: FetchOptions['artifact']): Promise<boolean> => {
  const there = await stat(file).catch(() => undefined);
  if (there === undefined) return false;
  const hash = createHash('sha256');
  if (there.size === artifact.bytes && (await hashFile(file, hash)) && hash.digest('hex') === artifact.sha256)
    return true;
  await rm(file);
  return false;
};

const hashFile = async (file: string, hash: Hash): Promise<true> => {
  for await (const chunk of readChunks(file, 1024 * 1024)) hash.update(chunk);
  return true;
};

/** Brings the part to its full length with the right hash. */
const fillPart = async (handle: FileHandle, part: string, options: FetchOptions): Promise<{ ok: true } | Failed> => {
  const { artifact } = options;
  const etagFile = `${part.slice(0, -'.part'.length)}.etag`;
  let have = (await handle.stat()).size;
  // Too much cannot become right by adding to it.
  if (have > artifact.bytes) have = await discard(handle, etagFile);
  let hash = createHash('sha256');
  if (have > 0) await hashFile(part, hash);

  if (have < artifact.bytes) {
    let answer = await ask(options, have, await knownEtag(etagFile, artifact.sha256));
    // What is there cannot be continued: once more, from the beginning.
    if (answer.kind === 'restart') answer = await ask(options, (have = await discard(handle, etagFile)), undefined);
    if (answer.kind === 'restart') return fail('FETCH_FAILED', `${answer.why}, even from the beginning`);
    if (answer.kind === 'failed') return answer.failure;
    if (answer.start === 0) {
      if (have > 0) have = await discard(handle, etagFile);
      hash = createHash('sha256');
    }
    await rememberEtag(etagFile, answer.etag);
    const received = await receive(handle, hash, have, answer, options);
    if (!received.ok) return received;
    have = artifact.bytes;
  }
  if (hash.digest('hex') === artifact.sha256) return { ok: true };
  await discard(handle, etagFile);
  return fail('TARGET_HASH', `what was downloaded does not have the SHA-256 ${artifact.sha256}`);
};

const discard = async (handle: FileHandle, etagFile: string): Promise<0> => {
  await handle.truncate(0);
  await rm(etagFile, { force: true });
  return 0;
};

/** Without a remembered one, an object named by its digest has that as its tag. */
const knownEtag = async (etagFile: string, sha256: string): Promise<string> =>
  (await readFileIfThere(etagFile))?.toString('latin1').slice(0, 256) || `"${sha256}"`;

/**
 * The tag decides only whether bytes are worth adding to; the hash decides whether they are right. So it need not be
 * durable.
 */
const rememberEtag = async (etagFile: string, etag: string | null): Promise<void> => {
  if (etag === null) return;
  const handle = await open(etagFile, 'w', 0o600);
  try {
    await handle.writeFile(etag.slice(0, 256), 'latin1');
  } finally {
    await handle.close();
  }
};

type Answer =
  | { kind: 'body'; start: number; etag: string | null; response: HttpAnswer; stop: AbortController }
  /** The server cannot continue what we have (RFC 9110, 14.2 and 15.5.17). */
  | { kind: 'restart'; why: string }
  | { kind: 'failed'; failure: Failed };

/** Asks for the bytes from `have` on and checks that the answer really begins at 0 or there (faults 20). */
const ask = async (options: FetchOptions, have: number, etag: string | undefined): Promise<Answer> => {
  const stop = new AbortController();
  const abort = (): void => stop.abort();
  options.signal.addEventListener('abort', abort);
  if (options.signal.aborted) abort();
  const timer = setTimeout(abort, options.limits?.headersMs ?? 30_000);
  const failed = (message: string, retry = true): Answer => ({
    kind: 'failed',
    failure: fail('FETCH_FAILED', message, retry),
  });
  const refuse = async (answer: Answer, response: HttpAnswer): Promise<Answer> => {
    await response.body?.cancel().catch(() => undefined);
    return answer;
  };
  // Only the very same bytes can be continued: If-Range needs a strong tag (RFC 9110, 13.1.5).
  const range = have > 0 && etag?.startsWith('"') === true ? { range: `bytes=${have}-`, 'if-range': etag } : {};
  // A compressed transfer would have other lengths than the object's.
  const headers = { 'accept-encoding': 'identity', ...range };
  try {
    const response = await options.get(objectPath(options.artifact.sha256), headers, stop.signal);
    const tag = response.headers.get('etag');
    const encoding = response.headers.get('content-encoding') ?? 'identity';
    if (response.status < 300 && encoding !== 'identity')
      return await refuse(failed(`the server answered in the encoding "${encoding.slice(0, 30)}"`), response);
    if (response.status === 200) return { kind: 'body', start: 0, etag: tag, response, stop };
    if (response.status === 416)
      return await refuse({ kind: 'restart', why: 'the server does not have that range' }, response);
    if (response.status !== 206) {
      // The server will not change its mind about these by itself.
      const retry = ![400, 405, 410].includes(response.status);
      return await refuse(failed(`the server answered ${response.status}`, retry), response);
    }
    const wrong = wrongRange(response, have, options.artifact.bytes, tag, etag);
    if (wrong !== undefined) return await refuse({ kind: 'restart', why: wrong }, response);
    return { kind: 'body', start: have, etag: tag, response, stop };
  } catch (error) {
    if (options.signal.aborted) return failed('the download was stopped', false);
    return failed(stop.signal.aborted ? 'the server did not answer in time' : reasonOf(error));
  } finally {
    clearTimeout(timer);
    options.signal.removeEventListener('abort', abort);
  }
};

const wrongRange = (
  response: HttpAnswer,
  have: number,
  bytes: number,
  tag: string | null,
  asked: string | undefined,
): string | undefined => {
  if (have === 0) return 'the server answered with a part that no one asked for';
  if (tag !== null && tag !== asked) return 'the object has another tag than before';
  const range = response.headers.get('content-range') ?? '';
  const parsed = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(range);
  const fits =
    parsed !== null &&
    Number(parsed[1]) === have &&
    Number(parsed[2]) < bytes &&
    (parsed[3] === '*' || Number(parsed[3]) === bytes);
  return fits ? undefined : `the server answered with the range "${range.slice(0, 100)}" to "bytes=${have}-"`;
};

const receive = async (
  handle: FileHandle,
  hash: Hash,
  have: number,
  answer: Extract<Answer, { kind: 'body' }>,
  options: FetchOptions,
): Promise<{ ok: true } | Failed> => {
  const { bytes } = options.artifact;
  const announced = Number(answer.response.headers.get('content-length') ?? Number.NaN);
  if (have + announced > bytes) {
    answer.stop.abort();
    return fail('ENDLESS_DATA', `the server announces ${have + announced} bytes instead of ${bytes}`);
  }
  const watch = watchRate(answer.stop, options);
  let arrived = have;
  async function* counted(): AsyncGenerator<Uint8Array> {
    for await (const chunk of answer.response.body ?? []) {
      const rest = bytes - arrived;
      arrived += chunk.length;
      watch.arrived(chunk.length);
      options.onBytes?.(chunk.length);
      if (chunk.length > rest) return;
      yield chunk;
    }
  }
  try {
    await writeHashed(handle, counted(), hash, (written) => options.onProgress?.(have + written));
  } catch (error) {
    if (isStorageError(error)) throw error;
    if (options.signal.aborted) return fail('FETCH_FAILED', 'the download was stopped', false);
    if (watch.tooSlow()) return fail('SLOW_RETRIEVAL', `${arrived} of ${bytes} bytes, then too few in too long a time`);
    return fail('FETCH_FAILED', `${reasonOf(error)} after ${arrived} of ${bytes} bytes`);
  } finally {
    watch.end();
    answer.stop.abort();
  }
  if (arrived > bytes) {
    // A server that sends more than was signed sends something else: nothing of it is worth keeping.
    await handle.truncate(0);
    return fail('ENDLESS_DATA', `the server sends more than ${bytes} bytes`);
  }
  if (arrived < bytes) return fail('FETCH_FAILED', `the server ended after ${arrived} of ${bytes} bytes`);
  return { ok: true };
};

/**
 * Aborts a transfer that brings too little in a window: an idle one, or one kept alive by a byte now and then (TUF:
 * slow retrieval attack).
 */
const watchRate = (
  stop: AbortController,
  options: FetchOptions,
): { arrived(bytes: number): void; tooSlow(): boolean; end(): void } => {
  const windowMs = options.limits?.windowMs ?? 30_000;
  const windowBytesMin = options.limits?.windowBytesMin ?? 30 * 1024;
  const abort = (): void => stop.abort();
  let inWindow = 0;
  let slow = false;
  options.signal.addEventListener('abort', abort);
  if (options.signal.aborted) abort();
  const timer = setInterval(() => {
    slow = inWindow < windowBytesMin;
    inWindow = 0;
    if (slow) stop.abort();
  }, windowMs);
  return {
    arrived: (bytes) => {
      inWindow += bytes;
    },
    tooSlow: () => slow,
    end: () => {
      clearInterval(timer);
      options.signal.removeEventListener('abort', abort);
    },
  };
};

/** Errors of the disk have a system call of the file system's; those of the network come wrapped. */
const isStorageError = (error: unknown): boolean =>
  ['write', 'writev', 'fdatasync', 'fsync', 'open', 'ftruncate'].includes(failedCall(error));

const reasonOf = (error: unknown): string => {
  const { message, cause } = error instanceof Error ? error : new Error(String(error));
  return cause instanceof Error ? `${message} (${cause.message})` : message;
};

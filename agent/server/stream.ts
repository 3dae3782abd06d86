/**
 * Bytes of one immutable object from some offset on, in order, in exactly the pieces that are asked for. What the
 * server answers is bounded: in length, in slowness, and to the range that was asked for (faults 20, 21).
 */
import { FRAME_BYTES_MAX } from '#shared/transfer/pack.ts';
import type { HttpAnswer, HttpGet } from './request.ts';
import { reasonOf, stopped, TransferError } from './transfer-error.ts';

export type StreamOptions = {
  get: HttpGet;
  path: string;
  /** The first byte, and the one behind the last. */
  start: number;
  end: number;
  /** Of the whole object. */
  bytes: number;
  /** The object is a chunk, and may come as a zstd frame: see `frame`. */
  zstd?: boolean;
  signal: AbortSignal;
  limits: FetchLimits;
  /** Called with every piece from the network, whether or not it is of use. */
  onBytes: (bytes: number) => void;
};

export type ByteStream = {
  /** Of the next byte, in the object. */
  position(): number;
  /** Exactly so many bytes. Throws TransferError; the stream is of no use any more then. */
  take(bytes: number): Promise<Buffer>;
  skip(bytes: number): Promise<void>;
  /**
   * All of it, where it came as a zstd frame of the chunk (which `take` must not be asked for then); undefined: it did
   * not.
   */
  frame(): Promise<Buffer | undefined>;
  /** Lets go of the connection. */
  close(): void;
};

const HEADERS_MS = 30_000;
const WINDOW_MS = 30_000;
const WINDOW_BYTES_MIN = 30 * 1024;
const END_MS_MAX = 1_000;

export const openStream = async (options: StreamOptions): Promise<ByteStream> => {
  const stop = new AbortController();
  const abort = (): void => stop.abort();
  options.signal.addEventListener('abort', abort, { once: true });
  const release = (): void => {
    options.signal.removeEventListener('abort', abort);
    stop.abort();
  };
  try {
    const answer = await ask(options, stop);
    return reader(options, answer, stop, release);
  } catch (error) {
    release();
    throw error;
  }
};

/**
 * Where the server cannot give the range, or gives another one, it is asked once more for all of the object (RFC 9110,
 * 14.2 and 15.5.17).
 */
const ask = async (options: StreamOptions, stop: AbortController): Promise<HttpAnswer> => {
  const { start, end, bytes } = options;
  const range = start === 0 && end === bytes ? undefined : `bytes=${start}-${end - 1}`;
  const first = await askOnce(options, range, stop);
  const answer = first === 'other-range' && range !== undefined ? await askOnce(options, undefined, stop) : first;
  if (answer === 'other-range')
    throw new TransferError('FETCH_FAILED', 'the server answered with a part that was not asked for');
  return answer;
};

const askOnce = async (
  options: StreamOptions,
  range: string | undefined,
  stop: AbortController,
): Promise<HttpAnswer | 'other-range'> => {
  const { get, path, limits, signal } = options;
  if (signal.aborted) throw stopped();
  // A compressed transfer has other lengths than the object's.
  const headers = {
    'accept-encoding': options.zstd ? 'zstd' : 'identity',
    ...(range === undefined ? {} : { range }),
  };
  const timer = setTimeout(() => stop.abort(), limits.headersMs ?? HEADERS_MS);
  let answer: HttpAnswer;
  try {
    answer = await get(path, headers, stop.signal);
  } catch (error) {
    if (signal.aborted) throw stopped();
    throw new TransferError(
      'FETCH_FAILED',
      stop.signal.aborted ? 'the server did not answer in time' : reasonOf(error),
    );
  } finally {
    clearTimeout(timer);
  }
  const wrong = wrongAnswer(options, range, answer);
  if (wrong === undefined) return answer;
  await answer.body?.cancel().catch(() => undefined);
  if (wrong === 'other-range') return wrong;
  throw wrong;
};

/** A whole object instead of a range is fine: what is before the range is read over. */
const wrongAnswer = (
  options: StreamOptions,
  range: string | undefined,
  answer: HttpAnswer,
): TransferError | 'other-range' | undefined => {
  const { status, headers } = answer;
  if (status === 200 || status === 206) {
    const encoding = headers.get('content-encoding') ?? 'identity';
    if (encoding !== 'identity' && !isFrame(options, answer))
      return new TransferError('FETCH_FAILED', `the server answered in the encoding "${encoding.slice(0, 30)}"`);
    if (status === 206 && !isOfRange(options, range, headers.get('content-range') ?? '')) return 'other-range';
    const announced = Number(headers.get('content-length') ?? Number.NaN);
    const most = limitOf(options, answer) - (status === 206 ? options.start : 0);
    return announced > most
      ? new TransferError('ENDLESS_DATA', `the server announces ${announced} bytes instead of ${most}`)
      : undefined;
  }
  if (status === 416 && range !== undefined) return 'other-range';
  // The server will not change its mind about these by itself.
  const retry = ![400, 405, 410].includes(status);
  return new TransferError('FETCH_FAILED', `the server answered ${status}`, {
    retry,
    missing: !retry || status === 404,
  });
};

const isOfRange = ({ start, end, bytes }: StreamOptions, range: string | undefined, answered: string): boolean => {
  const [, from, to, all] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(answered) ?? [];
  const known = all === '*' || Number(all) === bytes;
  return Number(from) === start && (start === 0 || range !== undefined) && Number(to) < end && known;
};

const isFrame = ({ zstd }: StreamOptions, { status, headers }: HttpAnswer): boolean =>
  zstd === true && status === 200 && headers.get('content-encoding') === 'zstd';
/** Nothing is sent behind it. */
const limitOf = (options: StreamOptions, answer: HttpAnswer): number => {
  if (answer.status === 206) return options.end;
  return isFrame(options, answer) ? FRAME_BYTES_MAX(options.bytes) : options.bytes;
};

const reader = (options: StreamOptions, answer: HttpAnswer, stop: AbortController, release: () => void): ByteStream => {
  const pieces = answer.body?.[Symbol.asyncIterator]();
  const watched = watchRate(options.limits, () => stop.abort());
  const limit = limitOf(options, answer);
  let arrived = answer.status === 200 ? 0 : options.start;
  let position = arrived;
  const held: Uint8Array[] = [];

  const fail = (code: 'ENDLESS_DATA' | 'FETCH_FAILED' | 'SLOW_RETRIEVAL', why: string): TransferError => {
    release();
    return new TransferError(code, why);
  };
  /** False: that was all. */
  const more = async (): Promise<boolean> => {
    let next: IteratorResult<Uint8Array> | undefined;
    try {
      next = await watched.waiting(() => pieces?.next());
    } catch (error) {
      if (options.signal.aborted) throw stopped();
      if (watched.tooSlow())
        throw fail('SLOW_RETRIEVAL', `${arrived} of ${limit} bytes, then too few in too long a time`);
      throw fail('FETCH_FAILED', `${reasonOf(error)} after ${arrived} of ${limit} bytes`);
    }
    if (next === undefined || next.done === true) return false;
    arrived += next.value.length;
    watched.arrived(next.value.length);
    options.onBytes(next.value.length);
    // A server that sends more than was promised sends something else.
    if (arrived > limit) throw fail('ENDLESS_DATA', `the server sends more than ${limit} bytes`);
    held.push(next.value);
    return true;
  };
  /** Hands out what is held, up to so many bytes. */
  const takeHeld = (bytes: number): Uint8Array => {
    const piece = held[0]!;
    const taken = piece.subarray(0, bytes);
    if (taken.length === piece.length) held.shift();
    else held[0] = piece.subarray(taken.length);
    position += taken.length;
    return taken;
  };
  const over = async (bytes: number, onPiece: (piece: Uint8Array) => void): Promise<void> => {
    if (position + bytes > limit) throw fail('FETCH_FAILED', `nothing lies behind ${limit} bytes`);
    for (let left = bytes; left > 0; ) {
      while (held.length === 0) {
        if (!(await more())) throw fail('FETCH_FAILED', `the server ended after ${arrived} of ${limit} bytes`);
      }
      const piece = takeHeld(left);
      left -= piece.length;
      onPiece(piece);
    }
  };
  const stream: ByteStream = {
    position: () => position,
    take: async (bytes) => {
      const taken: Uint8Array[] = [];
      await over(bytes, (piece) => void taken.push(piece));
      return taken.length === 1
        ? Buffer.from(taken[0]!.buffer, taken[0]!.byteOffset, bytes)
        : Buffer.concat(taken, bytes);
    },
    skip: (bytes) => over(bytes, () => undefined),
    frame: async () => {
      if (!isFrame(options, answer)) return undefined;
      while (await more());
      position = limit;
      return Buffer.concat(held.splice(0));
    },
    close: () => {
      if (position < limit && arrived < limit) return release();
      // All of it is here: read to its end the connection serves the next request. An answer that goes on is cut off.
      const late = setTimeout(release, END_MS_MAX);
      const ended = pieces?.next() ?? Promise.resolve();
      return void ended
        .catch(() => undefined)
        .finally(() => {
          clearTimeout(late);
          release();
        });
    },
  };
  return stream;
};

/**
 * Aborts when too little arrives in the time that was spent waiting for it: an idle transfer, or one kept alive by a
 * byte now and then (TUF: slow retrieval attack). Time that we took ourselves does not count.
 */
const watchRate = (limits: FetchLimits, abort: () => void) => {
  const windowMs = limits.windowMs ?? WINDOW_MS;
  const windowBytesMin = limits.windowBytesMin ?? WINDOW_BYTES_MIN;
  let waitedMs = 0;
  let bytes = 0;
  let slow = false;
  const windowEnds = (): void => {
    slow = bytes < windowBytesMin;
    waitedMs = 0;
    bytes = 0;
    if (slow) abort();
  };
  return {
    waiting: async <T>(act: () => Promise<T> | undefined): Promise<T | undefined> => {
      const began = performance.now();
      let timer = setTimeout(function again() {
        windowEnds();
        timer = setTimeout(again, windowMs);
      }, windowMs - waitedMs);
      try {
        return await act();
      } finally {
        clearTimeout(timer);
        waitedMs += performance.now() - began;
        // A window that ended while waiting has begun again.
        if (waitedMs >= windowMs) waitedMs %= windowMs;
      }
    },
    arrived: (more: number): void => {
      bytes += more;
    },
    tooSlow: () => slow,
  };
};

export type FetchLimits = {
  /** Until the answer's headers are there. Default 30,000. */
  headersMs?: number;
  /** Every `windowMs` must bring `windowBytesMin` bytes, or else SLOW_RETRIEVAL. Default 30,000 and 30 KiB. */
  windowMs?: number;
  windowBytesMin?: number;
};

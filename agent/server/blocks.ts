/**
 * GET over MQTT: a request for each block, several under way at once, and again what is not answered in time. What
 * comes back is believed as little as an HTTP answer: it is bounded here, and its digest is checked where it is used.
 */
import { randomBytes } from 'node:crypto';
import { BLOCK_BYTES_MAX, type BlockHeader, type BlockRequest, parseBlock } from '#shared/blocks.ts';
import { Id } from '#shared/ids.ts';
import { jitteredMs } from '../domain/backoff.ts';
import type { HttpAnswer, HttpGet } from './request.ts';

const WINDOW_FIRST = 4;
const WINDOW_MAX = 8;
/** A block is asked for again after this long at first, and after four times what one usually takes later. */
const REPEAT_MS = { first: 4_000, min: 500, max: 30_000 };
const REPEATS_MAX = 8;

export type BlocksOptions = {
  /** False when there is no connection. */
  publish: (request: BlockRequest) => boolean;
  repeatMs?: { first: number; min: number; max: number };
};

export type Blocks = {
  get: HttpGet;
  /** A message on `down/block`. */
  receive: (message: Buffer) => void;
};

class BlockFailed extends Error {
  override name = 'BlockFailed';
}

type Answered = { header: BlockHeader; bytes: Buffer };
type Open = { request: BlockRequest; answered: (answer: Answered) => void };

export const openBlocks = (options: BlocksOptions): Blocks => {
  const repeatMs = options.repeatMs ?? REPEAT_MS;
  const session = randomBytes(6).toString('hex');
  const open = new Map<string, Open>();
  let count = 0;
  let window = WINDOW_FIRST;
  let usualMs = repeatMs.first / 4;

  const receive = (message: Buffer): void => {
    const answer = parseBlock(message);
    const waiting = answer === undefined ? undefined : open.get(answer.header.id);
    // Late, of another life, or made up.
    if (answer === undefined || waiting === undefined) return;
    const { request } = waiting;
    const { status, offset, bytes, total } = answer.header;
    const whole = Math.min(request.bytes, Math.max(0, total - request.offset));
    // Not what was asked for: as if nothing had come.
    if (status === 200 && (offset !== request.offset || bytes !== whole)) return;
    waiting.answered(answer);
  };

  /** One block, asked for until it is there. Throws BlockFailed. */
  const block = async (path: string, offset: number, bytes: number, signal: AbortSignal): Promise<Answered> => {
    for (let repeats = 0; repeats <= REPEATS_MAX; repeats += 1) {
      signal.throwIfAborted();
      count += 1;
      const request: BlockRequest = { v: 1, id: Id.parse(`${session}-${count}`), path, offset, bytes };
      const began = performance.now();
      const waitMs = Math.min(repeatMs.max, Math.max(repeatMs.min, 4 * usualMs) * 2 ** Math.min(repeats, 4));
      const answer = await once(request, jitteredMs(waitMs, Math.random()), signal);
      if (answer !== undefined) {
        usualMs += (performance.now() - began - usualMs) / 8;
        window = Math.min(WINDOW_MAX, window + 1 / window);
        return answer;
      }
      // Lost, or too much at once.
      window = Math.max(1, window / 2);
    }
    throw new BlockFailed(`${path}: no answer over MQTT`);
  };
  const once = async (request: BlockRequest, waitMs: number, signal: AbortSignal): Promise<Answered | undefined> => {
    const { promise, resolve } = Promise.withResolvers<Answered | undefined>();
    const end = (): void => resolve(undefined);
    const timer = setTimeout(end, waitMs);
    signal.addEventListener('abort', end, { once: true });
    open.set(request.id, { request, answered: resolve });
    try {
      if (!options.publish(request)) throw new BlockFailed('MQTT is not connected');
      return await promise;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      open.delete(request.id);
    }
  };

  /** The blocks from `offset` up to `end` in order, as many under way as the window allows. */
  async function* follow(
    path: string,
    first: Answered,
    range: { offset: number; end: number },
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array> {
    yield first.bytes;
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    const under: { at: number; answer: Promise<Answered> }[] = [];
    let next = range.offset + first.bytes.length;
    const ask = (): void => {
      while (under.length < Math.floor(window) && next < range.end) {
        const answer = block(path, next, Math.min(BLOCK_BYTES_MAX, range.end - next), either);
        // Awaited in its turn; until then a failure must not count as unhandled.
        answer.catch(() => undefined);
        under.push({ at: next, answer });
        next += BLOCK_BYTES_MAX;
      }
    };
    try {
      for (ask(); under.length > 0; ask()) {
        const { header, bytes } = await under.shift()!.answer;
        if (header.status !== 200) throw new BlockFailed(`the server answered ${header.status}`);
        if (header.etag !== first.header.etag || header.total !== first.header.total)
          throw new BlockFailed('the object has changed');
        yield bytes;
      }
    } finally {
      stop.abort();
    }
  }

  const get: HttpGet = async (path, headers, signal) => {
    const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(headers['range'] ?? '') ?? [];
    const offset = Number(from ?? 0);
    const last = to === undefined || to === '' ? Number.POSITIVE_INFINITY : Number(to) + 1;
    const bytes = Math.min(BLOCK_BYTES_MAX, last - offset);
    const first = await block(path, offset, bytes, signal);
    const { status, total, etag } = first.header;
    if (status !== 200) return answerOf(status, {}, [first.bytes]);
    if (from !== undefined && offset >= total) return answerOf(416, {}, []);
    const end = Math.min(total, last);
    const body = follow(path, first, { offset, end }, signal);
    const lines = { 'content-length': String(end - offset), ...(etag === undefined ? {} : { etag }) };
    return from === undefined
      ? answerOf(200, lines, body)
      : answerOf(206, { ...lines, 'content-range': `bytes ${offset}-${end - 1}/${total}` }, body);
  };
  return { get, receive };
};

const answerOf = (
  status: number,
  headers: Record<string, string>,
  body: AsyncGenerator<Uint8Array> | Uint8Array[],
): HttpAnswer => ({
  status,
  headers: { get: (name) => headers[name.toLowerCase()] ?? null },
  body: {
    async *[Symbol.asyncIterator]() {
      yield* body;
    },
    cancel: async () => {
      if (!Array.isArray(body)) await body.return(undefined);
    },
  },
});

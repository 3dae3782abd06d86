/**
 * Everything the agent asks over HTTP: enrolment, the desired document, metadata, objects. Bounded in time and size.
 */
import { uptime } from 'node:os';
import type { z } from 'zod';
import { BOOT_HEADER } from '#shared/device-api.ts';
import type { Id } from '#shared/ids.ts';
import { PROBLEM_CODES, Problem, type ProblemCode } from '#shared/problems.ts';
import type { Log } from '../log.ts';
import { limitBandwidth } from './bandwidth.ts';
import { openCache } from './cache.ts';
import type { ProxyFor } from './proxy.ts';
import { firstReachable } from './reach.ts';
import { type HttpAnswer, type HttpGet, type RequestOptions, request } from './request.ts';

/**
 * The server's clock as far as it is known: login tokens must be made by it. Once heard it goes on, whatever is done to
 * the device's.
 */
export type ServerClock = { now(): number; learn(serverTime: number): void };

/** With the time that the machine slept. */
const upMs = (): number => uptime() * 1_000;

export const openServerClock = (now: () => number): ServerClock => {
  let heard: { server: number; at: number } | undefined;
  return {
    now: () => (heard === undefined ? now() : Math.round(heard.server + upMs() - heard.at)),
    learn: (server) => {
      heard = { server, at: upMs() };
    },
  };
};

/**
 * `answered`: someone answered something. `code` is `unavailable` when no answer came, `internal` when it was none of
 * ours.
 */
type HttpResult<T> = { ok: true; value: T } | { ok: false; code: ProblemCode; message: string; answered: boolean };

export type Http = {
  /**
   * With the device's login. What came is the caller's to judge; after a 401 it is asked once more, by the server's
   * clock.
   */
  get: HttpGet;
  /**
   * A whole document, cut off after `bytesMax` + 1 bytes or a little more; undefined when there is none (404). Throws
   * when it cannot be had.
   */
  getBytes: (path: string, bytesMax: number) => Promise<Buffer | undefined>;
  /** Parses the answer by the schema. */
  getJson<S extends z.ZodType>(path: string, schema: S, signal: AbortSignal): Promise<HttpResult<z.output<S>>>;
  /** Without login: for enrolment. */
  postJson<S extends z.ZodType>(
    path: string,
    body: unknown,
    schema: S,
    signal: AbortSignal,
  ): Promise<HttpResult<z.output<S>>>;
  /** With the device's login; never over MQTT. */
  postOwn<S extends z.ZodType>(
    path: string,
    body: unknown,
    schema: S,
    signal: AbortSignal,
  ): Promise<HttpResult<z.output<S>>>;
  /** What came was wrong or late: the cache is left alone for a while. */
  distrustCache: () => void;
};

const REQUEST_MS_MAX = 30_000;
const ANSWER_BYTES_MAX = 256 * 1024;
/** A login is good for five minutes; making one costs milliseconds of a small processor. */
const LOGIN_REUSED_MS = 60_000;

export const openHttp = (options: {
  serverUrl: string;
  login(at: number): string;
  boot: Id;
  clock: ServerClock;
  proxyFor?: ProxyFor;
  /** Bytes a second for objects; 0 is no limit. */
  bandwidth?: number;
  cacheUrl?: string | undefined;
  /** The same over MQTT, while that is connected. */
  blocks?: () => HttpGet | undefined;
  log: Pick<Log, 'info'>;
}): Http => {
  const { serverUrl, clock, cacheUrl, proxyFor, log } = options;
  const through = proxyFor === undefined ? {} : { proxyFor };
  let login: { token: string; for: number } | undefined;

  const authorization = (): string => {
    // By the server's clock, which is what it is good by; another one that was learnt since makes it again.
    const at = clock.now();
    if (login === undefined || Math.abs(at - login.for) >= LOGIN_REUSED_MS)
      login = { token: options.login(at), for: at };
    return `Device ${login.token}`;
  };
  const send = async (path: string, how: RequestOptions): Promise<HttpAnswer> => {
    const response = await request(`${serverUrl}${path}`, { ...how, ...through });
    // Perhaps this device's clock is off. The date has whole seconds, which is near enough for a login.
    const date = Date.parse(response.headers.get('date') ?? '');
    if (response.status === 401 && !Number.isNaN(date)) clock.learn(date);
    return response;
  };
  const ownHeaders = () => ({ authorization: authorization(), [BOOT_HEADER]: options.boot });
  /** After a 401 once more: perhaps this device's clock was off, and is known now. */
  const withLogin = async (ask: (headers: Record<string, string>) => Promise<HttpAnswer>): Promise<HttpAnswer> => {
    const response = await ask(ownHeaders());
    if (response.status !== 401) return response;
    await response.body?.cancel();
    return ask(ownHeaders());
  };
  const overHttp: HttpGet = (path, headers, signal) =>
    withLogin((login) => send(path, { headers: { ...headers, ...login }, signal }));
  const post = (path: string, body: unknown, headers: Record<string, string>, signal: AbortSignal) =>
    send(path, {
      method: 'POST',
      headers: { ...headers, 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: bounded(signal),
    });
  const reached = firstReachable({ http: overHttp, blocks: options.blocks ?? (() => undefined), log });
  const cache = cacheUrl === undefined ? undefined : openCache({ get: reached, cacheUrl, ...through, log });
  const get = cache?.get ?? reached;
  const limited = limitBandwidth(get, options.bandwidth ?? 0);
  return {
    get: (path, headers, signal) => (path.startsWith('/o/') ? limited : get)(path, headers, signal),
    distrustCache: () => cache?.distrust(),
    getBytes: async (path, bytesMax) => {
      const response = await get(path, {}, AbortSignal.timeout(REQUEST_MS_MAX));
      if (response.status === 404) {
        await response.body?.cancel();
        return undefined;
      }
      if (response.status !== 200) {
        await response.body?.cancel();
        throw new Error(`${path}: the server answered ${response.status}`);
      }
      return readAtMost(response, bytesMax);
    },
    getJson: (path, schema, signal) =>
      answerOf(() => get(path, { accept: 'application/json' }, bounded(signal)), schema),
    postJson: (path, body, schema, signal) => answerOf(() => post(path, body, {}, signal), schema),
    postOwn: (path, body, schema, signal) =>
      answerOf(() => withLogin((headers) => post(path, body, headers, signal)), schema),
  };
};

const bounded = (signal: AbortSignal): AbortSignal => AbortSignal.any([signal, AbortSignal.timeout(REQUEST_MS_MAX)]);

const readAtMost = async (response: HttpAnswer, bytesMax: number): Promise<Buffer> => {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of response.body ?? []) {
    bytes += piece.byteLength;
    pieces.push(piece);
    // Leaving the loop cancels the body. The caller sees that it is too long.
    if (bytes > bytesMax) break;
  }
  return Buffer.concat(pieces, bytes);
};

const answerOf = async <S extends z.ZodType>(
  ask: () => Promise<HttpAnswer>,
  schema: S,
): Promise<HttpResult<z.output<S>>> => {
  let status: number | undefined;
  let body: unknown;
  try {
    const response = await ask();
    status = response.status;
    const bytes = await readAtMost(response, ANSWER_BYTES_MAX);
    if (bytes.length > ANSWER_BYTES_MAX)
      return { ok: false, answered: true, code: 'internal', message: 'the answer is too long' };
    body = JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    return { ok: false, answered: status !== undefined, code: 'unavailable', message: reasonOf(error) };
  }
  if (status >= 200 && status < 300) {
    const parsed = schema.safeParse(body);
    if (parsed.success) return { ok: true, value: parsed.data };
    const [issue] = parsed.error.issues;
    const where = `${issue?.path.map(String).join('.') || 'answer'}: ${issue?.message}`;
    const message = `the server answered in a form that this agent does not know (${where})`;
    return { ok: false, answered: true, code: 'internal', message };
  }
  const problem = Problem.partial().safeParse(body).data;
  const code = PROBLEM_CODES.find((known) => known === problem?.code) ?? 'internal';
  const message = problem?.detail ?? problem?.title ?? `the server answered ${status}`;
  return { ok: false, answered: true, code, message };
};

/** The system's reason is in `cause`. */
const reasonOf = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error);
  if (error.cause instanceof AggregateError) return error.cause.errors.map(reasonOf).join(', ');
  return error.cause instanceof Error ? `${error.message} (${error.cause.message})` : error.message;
};

/** Typed calls of the operators' API, made from the same route definitions that the server serves. */
import { createReadStream } from 'node:fs';
import { pipeline, type Readable } from 'node:stream';
import { createZstdCompress } from 'node:zlib';
import { z } from 'zod';
import { Problem } from '#shared/problems.ts';
import type { Route, RouteAnswer, RouteCall } from '#shared/route.ts';
import { CliFailure, EXIT, problemFailure, usageFailure } from './failure.ts';
import type { Connection } from './login-file.ts';

const CALL_MS_MAX = 60_000;
/** How long an upload may stand still, the server's last checks included. */
const STALL_MS_MAX = 120_000;
const ANSWER_BYTES_MAX = 64 * 1024 ** 2;

export type Client = {
  url: string;
  /** Refusals and failures are thrown as CliFailure; see failure.ts for their exit codes. */
  call<R extends Route>(route: R, input: RouteCall<R>): Promise<RouteAnswer<R>>;
  /**
   * The body of a `stream` route comes from a file, compressed on its way. `done` and `total` count the file's bytes.
   */
  send<R extends Route>(
    route: R,
    input: { params: Record<string, string> },
    file: { path: string; bytes: number },
    onProgress: (done: number, total: number) => void,
  ): Promise<RouteAnswer<R>>;
  /** A long answer as it comes; the caller reads it all. */
  download(path: string): Promise<AsyncIterable<Uint8Array>>;
};

export const openClient = (connection: Connection): Client => {
  const request = async (method: string, path: string, init: RequestInit): Promise<Response> => {
    const headers = new Headers(init.headers);
    headers.set('authorization', `Bearer ${connection.token}`);
    try {
      return await fetch(connection.url + path, { ...init, method, headers, redirect: 'error' });
    } catch (error) {
      throw unreachable(connection.url, error);
    }
  };
  return {
    url: connection.url,
    call: async (route, input) => {
      const init: RequestInit = { signal: AbortSignal.timeout(CALL_MS_MAX) };
      const body = bodyOf(input);
      if (body !== undefined) {
        init.body = JSON.stringify(body);
        init.headers = { 'content-type': 'application/json' };
      }
      return readAnswer(route, await request(route.method, pathOf(route.path, input), init), connection.url);
    },
    send: async (route, input, file, onProgress) => {
      const stall = new AbortController();
      const timer = setTimeout(() => stall.abort(new Error('the upload stands still')), STALL_MS_MAX);
      const body = counted(createReadStream(file.path), (done) => {
        timer.refresh();
        onProgress(done, file.bytes);
      });
      const headers = { 'content-type': 'application/octet-stream', 'content-encoding': 'zstd' };
      const stream = ReadableStream.from(compressed(body));
      const init: RequestInit = { body: stream, headers, signal: stall.signal, duplex: 'half' };
      try {
        const response = await request(route.method, pathOf(route.path, input), init);
        return await readAnswer(route, response, connection.url);
      } finally {
        clearTimeout(timer);
      }
    },
    download: async (path) => {
      const response = await request('GET', path, {});
      if (!response.ok || response.body === null) throw await refusalOf(response, connection.url);
      return response.body;
    },
  };
};

const Scalars = z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.undefined()]));
const partOf = (input: unknown, name: 'params' | 'query'): z.infer<typeof Scalars> =>
  Scalars.parse(z.object({ [name]: z.unknown() }).safeParse(input).data?.[name] ?? {});
const bodyOf = (input: unknown): unknown => z.object({ body: z.unknown() }).safeParse(input).data?.body;

/** `/api/v1/devices/:device` with its parameters and query filled in. */
export const pathOf = (path: string, input: unknown): string => {
  const params = partOf(input, 'params');
  const filled = path.replace(/:([a-zA-Z][a-zA-Z0-9]*)/g, (_, name: string) => {
    const value = String(params[name]);
    // An address with one of these is another address, also when it is escaped.
    if (['', '.', '..'].includes(value)) throw usageFailure(`'${value}' cannot be the name of a ${name}`);
    return encodeURIComponent(value);
  });
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(partOf(input, 'query'))) {
    if (value !== undefined) query.set(name, String(value));
  }
  return query.size === 0 ? filled : `${filled}?${query.toString()}`;
};

async function* counted(source: Readable, onBytes: (done: number) => void): AsyncGenerator<Uint8Array> {
  let done = 0;
  for await (const chunk of source) {
    if (!Buffer.isBuffer(chunk)) continue;
    yield chunk;
    done += chunk.length;
    onBytes(done);
  }
}

/** Fast, and as small as that gives: what is compressed already passes as it is. */
const compressed = (source: AsyncIterable<Uint8Array>): Readable => {
  const compressor = createZstdCompress();
  // Its reader gets its errors.
  pipeline(source, compressor, () => {});
  return compressor;
};

const readAnswer = async <R extends Route>(route: R, response: Response, url: string): Promise<RouteAnswer<R>> => {
  if (!response.ok) throw await refusalOf(response, url);
  const parsed = route.answer.safeParse(parseJson(await readText(response, url)));
  if (!parsed.success) {
    const message = `${url} answered in a form that this version of sluice does not understand`;
    throw new CliFailure(message, { cause: parsed.error });
  }
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the schema that made it is the one of the type
  return parsed.data as RouteAnswer<R>;
};

/** What an answer that is no success says, as a failure. */
const refusalOf = async (response: Response, url: string): Promise<CliFailure> => {
  const problem = Problem.safeParse(parseJson(await readText(response, url)));
  if (problem.success) return problemFailure(problem.data);
  return new CliFailure(`${url} answered ${response.status} ${response.statusText}: is it a Sluice server?`);
};

const readText = async (response: Response, url: string): Promise<string> => {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  try {
    for await (const chunk of response.body ?? []) {
      bytes += chunk.length;
      if (bytes > ANSWER_BYTES_MAX) throw new CliFailure(`${url} answered with more than ${ANSWER_BYTES_MAX} bytes`);
      chunks.push(chunk);
    }
  } catch (error) {
    throw error instanceof CliFailure ? error : unreachable(url, error);
  }
  return Buffer.concat(chunks).toString('utf8');
};

const parseJson = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

const unreachable = (url: string, error: unknown): CliFailure => {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const why = cause instanceof Error && cause.message !== '' ? cause.message : codeOf(cause);
  return new CliFailure(`Cannot reach ${url}: ${why}`, { exitCode: EXIT.unreachable, cause: error });
};

const codeOf = (error: unknown): string =>
  typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : 'no answer';

/** Every item of a paged list, up to `itemsMax`. */
export const listAll = async <T>(
  fetchPage: (page: { after?: string; limit: number }) => Promise<{ items: T[]; next: string | null }>,
  itemsMax: number,
): Promise<T[]> => {
  const items: T[] = [];
  let after: string | undefined;
  while (items.length < itemsMax) {
    const limit = Math.min(1000, itemsMax - items.length);
    const page = await fetchPage(after === undefined ? { limit } : { after, limit });
    items.push(...page.items);
    if (page.next === null || page.items.length === 0) break;
    after = page.next;
  }
  return items;
};

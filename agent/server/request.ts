/**
 * One HTTP request with Node's own client. `fetch` costs a device some 15 MB of memory, and does not work at all where
 * V8 may not make machine code (`--lite-mode`, `--jitless`).
 */
import type { ClientRequest, IncomingMessage } from 'node:http';
import type { ProxyServer } from '../config/proxy-config.ts';
import { errorCode } from '../process/system-error.ts';
import { httpClient } from './node-http.ts';
import { proxyRefusal, throughProxy } from './proxied-request.ts';
import { type ProxyFor, targetOf } from './proxy.ts';

/** The part of the Fetch API's `Response` that the agent uses: a `Response` is one, too. */
export type HttpAnswer = {
  readonly status: number;
  readonly headers: { get(name: string): string | null };
  /** To be read to its end, left, or cancelled. */
  readonly body: (AsyncIterable<Uint8Array> & { cancel(): Promise<void> }) | null;
};

/** A GET that adds the server's address and the login. Redirects are the caller's choice. */
export type HttpGet = (path: string, headers: Record<string, string>, signal: AbortSignal) => Promise<HttpAnswer>;

export type RequestOptions = {
  method?: 'GET' | 'POST';
  headers: Record<string, string>;
  body?: string;
  /** Ends the request, and the reading of its answer. */
  signal: AbortSignal;
  /** Directly, unless given. */
  proxyFor?: ProxyFor;
};

/** What the network did; the system's own error is the cause, so that it is never mistaken for one of the disk. */
class RequestFailed extends Error {
  override name = 'RequestFailed';
}

const REDIRECTS_MAX = 5;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);

/** Follows redirects of a GET; the login does not go to another server. Throws when no answer comes. */
export const request = async (url: string, options: RequestOptions): Promise<HttpAnswer> => {
  let at = new URL(url);
  let { headers } = options;
  for (let redirects = 0; ; redirects += 1) {
    const response = await requestAgain(at, { ...options, headers });
    const location = response.headers.location;
    if (options.method === 'POST' || location === undefined || !REDIRECTS.has(response.statusCode ?? 0))
      return answerOf(response, options.signal);
    response.destroy();
    const next = URL.canParse(location, at.href) ? new URL(location, at) : undefined;
    if (next === undefined || !/^https?:$/.test(next.protocol) || redirects >= REDIRECTS_MAX)
      throw new RequestFailed(`redirected to "${location.slice(0, 200)}"`);
    if (next.origin !== at.origin) {
      const { authorization: _, ...others } = headers;
      headers = others;
    }
    at = next;
  }
};

/**
 * A kept connection may have been closed at the other end just when it was used again, which says nothing about the
 * server.
 */
const requestAgain = async (url: URL, options: RequestOptions): Promise<IncomingMessage> => {
  const first = await requestOnce(url, options);
  if (first !== 'stale') return first;
  const second = await requestOnce(url, { ...options, headers: { ...options.headers, connection: 'close' } });
  if (second === 'stale') throw new RequestFailed('the connection was closed without an answer');
  return second;
};

const requestOnce = async (
  url: URL,
  { method, headers, body, signal, proxyFor }: RequestOptions,
): Promise<IncomingMessage | 'stale'> => {
  signal.throwIfAborted();
  const answered = Promise.withResolvers<IncomingMessage | 'stale'>();
  const length = body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) };
  const proxy = proxyFor?.(targetOf(url)) ?? null;
  const asking = begin(url, proxy, { method: method ?? 'GET', headers: { ...headers, ...length } });
  asking.once('response', answered.resolve);
  // Without an error of its own: the socket would emit that, with no one listening any more where the whole answer has
  // come just now.
  const abort = (): void => {
    asking.destroy();
    // It does not end before it has a socket, for which it may wait in a tunnel.
    answered.reject(signal.reason);
  };
  signal.addEventListener('abort', abort, { once: true });
  // It stays: an error without a listener would end the process.
  asking.on('error', (cause) => {
    if (signal.aborted) answered.reject(signal.reason);
    else if (asking.reusedSocket && errorCode(cause) === 'ECONNRESET') answered.resolve('stale');
    else answered.reject(failed(cause));
  });
  asking.once('close', () => {
    signal.removeEventListener('abort', abort);
    answered.reject(new RequestFailed('the connection was closed without an answer'));
  });
  asking.end(body);
  const answer = await answered.promise;
  if (answer !== 'stale' && proxy !== null) {
    const refusal = proxyRefusal(answer, url, proxy);
    if (refusal !== undefined) throw failed(refusal);
  }
  return answer;
};

const failed = (cause: Error): RequestFailed => new RequestFailed('the request failed', { cause });

const begin = (
  url: URL,
  proxy: ProxyServer | null,
  how: { method: string; headers: Record<string, string> },
): ClientRequest => {
  if (proxy === null) return httpClient(url).request(url, how);
  const through = throughProxy(url, proxy, how.headers);
  // The tunnel is the agent's; what is not in one is a request to the proxy itself.
  return httpClient(url.protocol === 'https:' ? url : proxy).request({ ...through, method: how.method });
};

const answerOf = (response: IncomingMessage, signal: AbortSignal): HttpAnswer => {
  // Aborted while no one reads it: without a listener that would end the process. A later reader still gets it.
  response.on('error', () => undefined);
  async function* pieces(): AsyncGenerator<Uint8Array> {
    try {
      for await (const piece of response) yield piece;
    } catch (cause) {
      signal.throwIfAborted();
      throw new RequestFailed('the answer broke off', { cause });
    }
  }
  return {
    status: response.statusCode ?? 0,
    headers: {
      get: (name) => {
        const value = response.headers[name.toLowerCase()];
        return value === undefined ? null : String(value);
      },
    },
    body: {
      [Symbol.asyncIterator]: pieces,
      cancel: async () => {
        response.destroy();
      },
    },
  };
};

/** A connection through a proxy to whatever is behind it (CONNECT, RFC 9110 9.3.6). */
import type { Socket } from 'node:net';
import type { ProxyServer } from '../config/proxy-config.ts';
import { errorCode } from '../process/system-error.ts';
import { httpClient } from './node-http.ts';

const TUNNEL_MS_MAX = 20_000;

/** What a proxy said, or did not say, in a sentence that names it. */
export class ProxyFailed extends Error {
  override name = 'ProxyFailed';
}

/** In an error's sentence: the status with what it means for the one who reads it. */
export const statusSentence = (status: number, reason: string): string =>
  `${status} ${reason}`.trim() +
  (status === 407 || status === 401 ? ': it asks for a user and a password, or for others' : '');

export const loginHeader = ({ login }: ProxyServer): Record<string, string> =>
  login === null ? {} : { 'proxy-authorization': `Basic ${Buffer.from(login).toString('base64')}` };

/** Throws `ProxyFailed`; or what the signal was aborted with. */
export const openTunnel = async (
  proxy: ProxyServer,
  { host, port }: { host: string; port: number },
  signal: AbortSignal,
): Promise<Socket> => {
  signal.throwIfAborted();
  const clock = AbortSignal.timeout(TUNNEL_MS_MAX);
  const to = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const asking = httpClient(proxy).request({
    protocol: proxy.protocol,
    host: proxy.host,
    port: proxy.port,
    method: 'CONNECT',
    path: to,
    agent: false,
    headers: { host: to, ...loginHeader(proxy) },
  });
  const abort = (): void => void asking.destroy(new Error('aborted'));
  const either = AbortSignal.any([signal, clock]);
  either.addEventListener('abort', abort, { once: true });
  asking.on('connect', (answer, socket: Socket, first) => {
    if (answer.statusCode === 200) {
      if (first.length > 0) socket.unshift(first);
      return resolve(socket);
    }
    socket.destroy();
    const said = statusSentence(answer.statusCode ?? 0, answer.statusMessage ?? '');
    return reject(new ProxyFailed(`the proxy ${proxy.name} refuses to connect to ${to}: ${said}`));
  });
  // A proxy that takes CONNECT for another request.
  asking.on('response', (answer) => {
    answer.destroy();
    reject(new ProxyFailed(`the proxy ${proxy.name} knows no CONNECT: ${answer.statusCode}`));
  });
  asking.on('error', (cause) => {
    if (signal.aborted) return reject(signal.reason);
    const why = clock.aborted ? `no answer within ${TUNNEL_MS_MAX} ms` : errorCode(cause) || cause.message;
    return reject(new ProxyFailed(`the proxy ${proxy.name} cannot be reached: ${why}`, { cause }));
  });
  asking.end();
  try {
    return await promise;
  } finally {
    either.removeEventListener('abort', abort);
  }
};

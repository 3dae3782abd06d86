/**
 * How an HTTP request goes through a proxy: `https:` in a tunnel, which the proxy cannot look into, `http:` as a
 * request to the proxy itself, since many let nothing but port 443 through a tunnel. Node's own way (`proxyEnv` of its
 * agents) leaves a request without an end where a proxy never answers, even after it was destroyed (24.21).
 */
import type { IncomingMessage, RequestOptions } from 'node:http';
import type { Agent, AgentOptions } from 'node:https';
import type { Duplex } from 'node:stream';
import type { ConnectionOptions } from 'node:tls';
import type { ProxyServer } from '../config/proxy-config.ts';
import { loginHeader, openTunnel, ProxyFailed, statusSentence } from './tunnel.ts';

/** Kept, so that one tunnel serves many requests. */
const agents = new Map<string, Agent>();

const tunnelAgent = (proxy: ProxyServer): Agent => {
  const key = `${proxy.name} ${proxy.login}`;
  const known = agents.get(key);
  if (known !== undefined) return known;
  const { Agent } = process.getBuiltinModule('node:https');
  class TunnelAgent extends Agent {
    override createConnection(
      options: AgentOptions & ConnectionOptions,
      made?: (error: Error | null, stream: Duplex) => void,
    ) {
      const to = { host: options.host ?? '', port: options.port ?? 443 };
      openTunnel(proxy, to, new AbortController().signal)
        .then((socket) => {
          // With `socket` it speaks TLS over that.
          const over = { ...options, socket };
          made?.(null, super.createConnection(over)!);
        })
        // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- Node takes no stream with an error; its types ask for one
        .catch((error: Error) => made?.(error, undefined as unknown as Duplex));
      return undefined;
    }
  }
  const agent = new TunnelAgent({ keepAlive: true, scheduling: 'lifo', timeout: 5_000 });
  agents.set(key, agent);
  return agent;
};

/** What to ask whom instead of the URL. */
export const throughProxy = (url: URL, proxy: ProxyServer, headers: Record<string, string>): RequestOptions => {
  if (url.protocol === 'https:')
    return {
      protocol: url.protocol,
      host: hostOf(url),
      port: url.port || 443,
      path: pathOf(url),
      headers,
      agent: tunnelAgent(proxy),
    };
  return {
    protocol: proxy.protocol,
    host: proxy.host,
    port: proxy.port,
    path: `${url.origin}${pathOf(url)}`,
    headers: { ...headers, ...loginHeader(proxy), host: url.host },
  };
};

const hostOf = ({ hostname }: URL): string => hostname.replace(/^\[(.*)\]$/, '$1');
const pathOf = ({ pathname, search }: URL): string => `${pathname}${search}`;

/** So a proxy answers in the place of a server that it does not reach, or may not ask. */
const isRefusal = (status: number): boolean => status >= 500 || [401, 403, 407].includes(status);

/** An answer of the proxy's own is none of the server, which answers in JSON. */
export const proxyRefusal = (answer: IncomingMessage, url: URL, proxy: ProxyServer): ProxyFailed | undefined => {
  const status = answer.statusCode ?? 0;
  const isServers = url.protocol === 'https:' || /\bjson\b/.test(answer.headers['content-type'] ?? '');
  if (isServers || !isRefusal(status)) return undefined;
  answer.destroy();
  const said = statusSentence(status, answer.statusMessage ?? '');
  return new ProxyFailed(`the proxy ${proxy.name} has no answer of ${url.host}: ${said}`);
};

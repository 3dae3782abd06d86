/** Where the server can be reached, as URLs. */
import { networkInterfaces } from 'node:os';

const WILDCARDS = new Set(['0.0.0.0', '::', '::0']);
export const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host);

const bracketed = (host: string): string => (host.includes(':') ? `[${host}]` : host);

/** For someone on this machine. */
export const localUrl = (scheme: string, host: string, port: number): string =>
  `${scheme}://${WILDCARDS.has(host) ? '127.0.0.1' : bracketed(host)}:${port}`;

/** For devices: the address that is listened on, or this machine's first one in the network when it listens on all. */
export const networkUrl = (scheme: string, host: string, port: number): string => {
  const all = Object.values(networkInterfaces()).flatMap((some) => some ?? []);
  const outside = all.find(({ internal, family }) => !internal && family === 'IPv4');
  return WILDCARDS.has(host) && outside !== undefined
    ? `${scheme}://${outside.address}:${port}`
    : localUrl(scheme, host, port);
};

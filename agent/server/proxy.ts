/**
 * Which way out of the device's network a connection takes: through a proxy, or none. As curl decides it, from the same
 * variables.
 */
import { BlockList, isIP } from 'node:net';
import type { ProxyServer } from '../config/proxy-config.ts';

/** What is asked of: a URL's scheme without its colon, its host and port. */
export type Target = { scheme: 'http' | 'https' | 'mqtt' | 'mqtts' | 'ws' | 'wss'; host: string; port: number };

export type Proxies = {
  /** For what would go out as plain HTTP, and for all else. */
  http: ProxyServer | null;
  https: ProxyServer | null;
  /** The words of NO_PROXY. */
  except: readonly string[];
};

export type ProxyFor = (target: Target) => ProxyServer | null;

export const chooseProxy = ({ http, https, except }: Proxies, target: Target): ProxyServer | null => {
  const proxy = target.scheme === 'http' || target.scheme === 'ws' ? http : https;
  return proxy === null || except.some((word) => isExcepted(word, target)) ? null : proxy;
};

/** For `http:` and `https:`. */
export const targetOf = ({ protocol, hostname, port }: URL): Target => {
  const scheme = protocol === 'https:' ? 'https' : 'http';
  return {
    scheme,
    host: hostname.replace(/^\[(.*)\]$/, '$1'),
    port: port === '' ? (scheme === 'https' ? 443 : 80) : Number(port),
  };
};

/**
 * `*`; a host or domain, also with a dot before it, and what is below it; an address; a network `10.0.0.0/8`; each but
 * the first two with `:port`.
 */
const isExcepted = (word: string, { host, port }: Target): boolean => {
  if (word === '*') return true;
  const [, bracketed, plain, only] = /^(?:\[([^\]]+)\]|([^:]*|.*:.*:.*?))(?::(\d+))?$/.exec(word) ?? [];
  const name = (bracketed ?? plain ?? '').toLowerCase();
  if (name === '' || (only !== undefined && Number(only) !== port)) return false;
  if (isIP(host) !== 0) return isAddressIn(name, host);
  const domain = name.replace(/^\*?\./, '').replace(/\.$/, '');
  const asked = host.toLowerCase().replace(/\.$/, '');
  return asked === domain || asked.endsWith(`.${domain}`);
};

const familyOf = (address: string): 'ipv4' | 'ipv6' => (isIP(address) === 4 ? 'ipv4' : 'ipv6');

const isAddressIn = (network: string, address: string): boolean => {
  const [base = '', bits] = network.split('/');
  const width = familyOf(base) === 'ipv4' ? 32 : 128;
  if (isIP(base) === 0 || (bits !== undefined && !(/^\d{1,3}$/.test(bits) && Number(bits) <= width))) return false;
  const list = new BlockList();
  list.addSubnet(base, bits === undefined ? width : Number(bits), familyOf(base));
  return list.check(address, familyOf(address));
};

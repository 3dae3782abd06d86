/** Which way out of the device's network a connection takes: through a proxy, or none. As curl decides it, from the same variables. */
import { BlockList, isIP } from 'node:net';

export type ProxyServer = {
  protocol: 'http:' | 'https:';
  host: string;
  port: number;
  /** `user:password`; never to be logged. */
  login: string | null;
  /** For sentences: without the login. */
  name: string;
};

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

/** `http://user:password@host:port`, `https://...`, or a bare `host:port`. Undefined when it is none. */
export const parseProxy = (text: string): ProxyServer | undefined => {
  const url = URL.parse(/^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : `http://${text}`);
  if (url === null || /\s/.test(text) || !/^https?:$/.test(url.protocol) || url.pathname !== '/' || url.port === '0')
    return undefined;
  const protocol = url.protocol === 'https:' ? 'https:' : 'http:';
  const { username, password, hostname, host } = url;
  const login = decoded(`${username}:${password}`);
  if (login === undefined) return undefined;
  return {
    protocol,
    host: hostname.replace(/^\[(.*)\]$/, '$1'),
    port: url.port === '' ? (protocol === 'https:' ? 443 : 80) : Number(url.port),
    login: login === ':' ? null : login,
    name: `${protocol}//${host}`,
  };
};

const decoded = (text: string): string | undefined => {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
};

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

/** `*`; a host or domain, also with a dot before it, and what is below it; an address; a network `10.0.0.0/8`; each but the first two with `:port`. */
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

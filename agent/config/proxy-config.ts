/** A proxy as a configuration or a variable names it. */

export type ProxyServer = {
  protocol: 'http:' | 'https:';
  host: string;
  port: number;
  /** `user:password`; never to be logged. */
  login: string | null;
  /** For sentences: without the login. */
  name: string;
};

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

/** The configuration's word for no proxy, whatever the environment says. */
export const NO_PROXY = 'none';

export const splitWords = (text: string): string[] => text.split(/[\s,]+/).filter((word) => word !== '');

/** The proxies of this device: those of its configuration, or else of the environment. */
import type { AgentConfig } from '../config/config.ts';
import { NO_PROXY, parseProxy, splitWords } from '../config/proxy-config.ts';
import { chooseProxy, type Proxies, type ProxyFor } from './proxy.ts';

type Env = Record<string, string | undefined>;

const WORDS_MAX = 256;

/**
 * `problems` are for the log: a variable that means nothing must not keep an agent, and its application, from running.
 */
export const openProxies = (
  { proxy, noProxy }: Pick<AgentConfig, 'proxy' | 'noProxy'>,
  env: Env,
): { proxyFor: ProxyFor; problems: string[] } => {
  const problems: string[] = [];
  const named = (name: string): string | undefined => env[name.toLowerCase()] ?? env[name];
  const ofEnvironment = (name: string) => {
    const text = named(name) ?? named('ALL_PROXY') ?? '';
    const server = text === '' ? null : (parseProxy(text) ?? null);
    if (text !== '' && server === null)
      problems.push(`${name} is no proxy of the form http://host:port, and is left out of account`);
    return server;
  };
  const configured = proxy === undefined || proxy === NO_PROXY ? null : (parseProxy(proxy) ?? null);
  const proxies: Proxies = {
    http: proxy === undefined ? ofEnvironment('HTTP_PROXY') : configured,
    https: proxy === undefined ? ofEnvironment('HTTPS_PROXY') : configured,
    except: noProxy ?? splitWords(named('NO_PROXY') ?? '').slice(0, WORDS_MAX),
  };
  return { proxyFor: (target) => chooseProxy(proxies, target), problems };
};

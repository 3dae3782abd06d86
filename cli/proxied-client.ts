/**
 * The server as a person's commands reach it: through the proxies of the environment, as Node has them (HTTPS_PROXY,
 * HTTP_PROXY, NO_PROXY).
 */
import { setGlobalProxyFromEnv } from 'node:http';
import { type Client, openClient } from './client.ts';
import { usageFailure } from './failure.ts';
import type { Connection } from './login-file.ts';

/** For `fetch` too. The demo, the server and the agent, which share this program, have other ways out. */
export const openProxiedClient = (connection: Connection): Client => {
  try {
    setGlobalProxyFromEnv();
  } catch {
    // Its message has the login.
    throw usageFailure('HTTPS_PROXY or HTTP_PROXY is no address of the form http://host:port');
  }
  return openClient(connection);
};

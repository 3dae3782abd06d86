/** Node's HTTP clients, loaded when they are needed. */

type Client = Pick<typeof import('node:http'), 'request'>;

/**
 * For `http:` and `https:`. An `import` of `node:http` would also load what else it offers, a WebSocket and with it all
 * of `fetch`, which takes 14 MB of a device's memory.
 */
export const httpClient = (url: { protocol: string }): Client =>
  url.protocol === 'https:' ? process.getBuiltinModule('node:https') : process.getBuiltinModule('node:http');

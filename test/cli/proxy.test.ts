import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { LOGIN, SKIPPED, startTinyproxy } from '#test/agent/proxy-rig.ts';
import { runSluice } from './run.ts';

const startServer = async (): Promise<string> => {
  const server = createServer((_, answer) => {
    answer.setHeader('content-type', 'application/json');
    answer.end(JSON.stringify({ name: 'ada', role: 'admin', server: 'test' }));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
};
const login = async (url: string, environment: Record<string, string>) => {
  const home = await mkdtemp(join(tmpdir(), 'sluice-cli-proxy-'));
  onTestFinished(() => rm(home, { recursive: true, force: true }));
  return runSluice(['login', url, '--token', 'slo_x'], { environment: { ...environment, HOME: home } });
};

test.skipIf(SKIPPED)(
  'commands reach their server through the proxy of the environment, unless NO_PROXY names it',
  async () => {
    const [proxy, url] = [await startTinyproxy(LOGIN), await startServer()];
    const through = await login(url, { HTTP_PROXY: proxy.url, HTTPS_PROXY: proxy.url });
    expect(through.err).toBe('');
    expect(through.out).toContain('as ada');
    expect(await proxy.log()).toContain(`CONNECT ${url.slice(7)}`);
    const directly = await login(url, { http_proxy: 'http://127.0.0.1:1', NO_PROXY: '127.0.0.1' });
    expect(directly.out).toContain('as ada');
  },
);

test('a proxy that is down, or is none, is a failure in words and without the login', async () => {
  const url = await startServer();
  const down = await login(url, { HTTP_PROXY: 'http://user:secret@127.0.0.1:1' });
  expect(down).toMatchObject({ code: 3, err: expect.stringContaining(`Cannot reach ${url}`) });
  const none = await login(url, { HTTP_PROXY: 'http://user:secret@127.0.0.1:99999' });
  expect(none).toMatchObject({ code: 2, err: expect.stringContaining('no address of the form http://host:port') });
  expect(down.err + none.err).not.toContain('secret');
});

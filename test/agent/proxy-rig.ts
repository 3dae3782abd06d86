/** A real proxy (tinyproxy), and ones that misbehave. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { until } from './harness.ts';

const PATH = `${process.env['PATH']}:/usr/sbin:/sbin`;

const isInstalled = (): boolean => {
  try {
    execFileSync('sh', ['-c', 'command -v tinyproxy'], { env: { PATH }, stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
};
/** On a machine of CI they fail then: `.ci/run` installs it. Elsewhere: `apt-get install tinyproxy-bin`. */
export const SKIPPED = !isInstalled() && process.env['CI'] === undefined;

export const LOGIN = { user: 'device', password: 'open-sesame' } as const;

const listening = async (server: ReturnType<typeof createServer>): Promise<number> => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
};

/** It asks for `LOGIN`, where that is given. `log` has a line for each request. */
export const startTinyproxy = async (login?: typeof LOGIN, more = '') => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-proxy-'));
  const probe = createServer();
  const port = await listening(probe);
  probe.close();
  const [file, config] = [join(dir, 'log'), join(dir, 'tinyproxy.conf')];
  const auth = login === undefined ? '' : `BasicAuth ${login.user} ${login.password}\n`;
  await writeFile(
    config,
    `Port ${port}\nListen 127.0.0.1\nMaxClients 100\nTimeout 600\nLogLevel Info\nLogFile "${file}"\n${auth}${more}`,
  );
  const child = spawn('tinyproxy', ['-d', '-c', config], { env: { PATH }, stdio: 'ignore' });
  onTestFinished(async () => {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    await rm(dir, { recursive: true, force: true });
  });
  const log = () => readFile(file, 'utf8').catch(() => '');
  await until('tinyproxy listens', async () => {
    if (child.exitCode !== null) throw new Error('tinyproxy does not start with its configuration');
    return (await log()).includes('Accepting connections');
  });
  const at = login === undefined ? '' : `${login.user}:${login.password}@`;
  return { port, url: `http://${at}127.0.0.1:${port}`, name: `http://127.0.0.1:${port}`, log };
};

/** One that answers each request in a way of its own, or not at all. */
export const startBadProxy = async (answer: string | null) => {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => sockets.delete(socket));
    if (answer !== null) socket.once('data', () => socket.end(answer));
    else socket.resume();
  });
  const port = await listening(server);
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { url: `http://user:secret@127.0.0.1:${port}`, name: `http://127.0.0.1:${port}`, sockets };
};

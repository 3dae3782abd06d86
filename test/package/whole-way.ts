import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, '..', '..');
let cwd: string;
let env: NodeJS.ProcessEnv;

/** Of the tester's own, only how npm reaches its registry; and no program of this project. */
const cleanEnvironment = (): NodeJS.ProcessEnv => {
  const kept = Object.entries(process.env).filter(([name]) =>
    /^(HOME|npm_config_(registry|cache|userconfig)|\w+_proxy)$/i.test(name),
  );
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => !folder.startsWith(ROOT));
  return { ...Object.fromEntries(kept), PATH: folders.join(delimiter) };
};
const sluice = async (...words: string[]): Promise<string> =>
  (await run('npx', ['--no-install', 'sluice', ...words], { cwd, env })).stdout;

beforeAll(async () => {
  cwd = await mkdtemp(join(tmpdir(), 'sluice-package-'));
  const built = await mkdtemp(join(tmpdir(), 'sluice-built-'));
  env = cleanEnvironment();
  try {
    const { stdout } = await run(process.execPath, ['cli/build.ts', '--out', built], { cwd: ROOT });
    process.stdout.write(stdout);
    const [file] = (await readdir(built)).filter((name) => name.endsWith('.tgz'));
    await run('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', join(built, file!)], { cwd, env });
  } finally {
    await rm(built, { recursive: true });
  }
});
afterAll(() => rm(cwd, { recursive: true, force: true }));

test('it says the version of the project', async () => {
  const { version } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')) as { version: string };
  expect(await sluice('--version')).toBe(`${version}\n`);
});

test('a server and eight agents roll a good release out, and stop a bad one', async () => {
  const last = (await sluice('demo', '--json')).trim().split('\n').at(-1)!;
  const result = JSON.parse(last) as { rollouts: unknown[]; audit: unknown };
  expect(result.rollouts).toMatchObject([
    { state: 'completed', committed: 8 },
    { state: 'halted', reverted: 2, untouched: 6 },
  ]);
  expect(result.audit).toMatchObject({ verified: true });
});

test('a simulation has its threads', async () => {
  const words = ['--fleet', '100', '--runs', '4', '--compare', 'none', '--json'];
  expect(JSON.parse(await sluice('simulate', ...words))).toHaveLength(1);
});

test('a server makes the pack of a release that was published to it, and stops when it is asked to', async () => {
  const words = ['--data-dir', 'data', '--http-port', '0', '--mqtt-port', '0', '--log-pretty', 'false'];
  // Not by npx, which ends at a signal without passing it on.
  const server = spawn(join(cwd, 'node_modules', '.bin', 'sluice'), ['serve', ...words], {
    cwd,
    env,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  onTestFinished(() => void server.kill());
  const ended = once(server, 'exit');
  const lines = createInterface(server.stdout)[Symbol.asyncIterator]();
  const nextEvent = async (wanted: string): Promise<Record<string, unknown>> => {
    for (let line = await lines.next(); line.done !== true; line = await lines.next()) {
      const entry = JSON.parse(line.value) as Record<string, unknown>;
      if (entry['event'] === wanted) return entry;
    }
    throw new Error(`the server ended without ${wanted}`);
  };
  env['SLUICE_URL'] = String((await nextEvent('server-started'))['httpUrl']);
  env['SLUICE_TOKEN'] = (await readFile(join(cwd, 'data', 'admin-token'), 'utf8')).trim();

  await writeFile(join(cwd, 'application.bin'), randomBytes(1_000_000));
  const release = ['--product', 'gateway', '--version', '1.0.0', '--compatible', 'gw'];
  await sluice(
    'bundle',
    'create',
    ...release,
    '--artifact',
    'app=application.bin:application.bin',
    '--out',
    'gateway.sluice',
  );
  await sluice('key', 'new', '--out', 'ci.pem');
  await sluice('product', 'create', 'gateway', '--key', 'ci.pub.pem');
  await sluice('release', 'publish', 'gateway.sluice', '--key', 'ci.pem', '--stage', 'production');
  expect(await nextEvent('pack-made')).toMatchObject({ from: null });
  server.kill();
  expect(await ended).toEqual([0, null]);
});

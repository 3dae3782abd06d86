import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import { limitScript } from '#agent/application/limits.ts';
import { openSupervisor, type SupervisorOptions } from '#agent/application/supervisor.ts';
import type { Limits } from '#agent/config/limits-config.ts';

const run = promisify(execFile);
const isRoot = process.getuid?.() === 0;
const shell = async (limits: Limits, script: string): Promise<string> =>
  (await run('/bin/sh', ['-c', limitScript(limits, '"$0" "$@"'), 'sh', '-c', script])).stdout.trim();

test('each limit is what the application finds, and one that is not set is left as it was', async () => {
  expect(await shell({ files: 64 }, 'ulimit -n')).toBe('64');
  expect(await shell({ memoryBytes: 64 * 1024 ** 2 }, 'ulimit -d')).toBe('65536');
  expect(await shell({ fileBytes: 1024 ** 2 }, 'ulimit -f')).toBe('2048');
  // On top of what the tests themselves run with; 19 is the most there is.
  const own = Number(await shell({}, 'nice'));
  expect(await shell({ nice: 7 }, 'nice')).toBe(String(Math.min(19, own + 7)));
  expect(await shell({ processes: 50 }, 'grep "Max processes" /proc/self/limits')).toMatch(/processes +50 +50 /);
  expect(await shell({}, 'ulimit -n; nice')).toBe(await shell({ memoryBytes: 2 ** 40 }, 'ulimit -n; nice'));
});

test('a limit that cannot be set ends what would have run without it', async () => {
  const script = `ulimit -n 64; ${limitScript({ files: 1_048_576 }, 'echo ran')}`;
  // Root may raise its limits.
  const unprivileged = isRoot ? ['setpriv', '--reuid=65534', '--clear-groups'] : [];
  await expect(run('env', [...unprivileged, '/bin/sh', '-c', script])).rejects.toMatchObject({ code: 125, stdout: '' });
});

const supervisor = async (more: Partial<SupervisorOptions>) => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-limits-'));
  const opened = await openSupervisor({ dir, stopMs: 1_000, ...more });
  onTestFinished(async () => {
    await opened.stop();
    await rm(dir, { recursive: true, force: true });
  });
  const start = (script: string, onExit: 'restart' | 'report' = 'report') =>
    opened.start({
      slot: 'a',
      command: ['node', '-e', script],
      folder: '/',
      environment: { FROM: 'release', RELEASE: '1' },
      onExit,
    });
  const output = (what: RegExp) => expect.poll(() => opened.lastOutput(4_096)).toMatch(what);
  return { opened, start, output };
};

test('an application that takes more memory than it may is ended by it, not the device', async () => {
  const { start, output, opened } = await supervisor({ limits: { memoryBytes: 600 * 1024 ** 2, files: 128 } });
  await start(`
    console.log('began');
    const all = []; for (let i = 0; i < 100; i += 1) all.push(Buffer.alloc(20e6, 1));
    console.log('took it all');`);
  await output(/began[^]*ended after/);
  expect(await opened.lastOutput(4_096)).not.toContain('took it all');
});

test('what the device adds is stronger than the release, and is read again at each start', async () => {
  let values: Record<string, string> = { FROM: 'device', SLUICE_SECRETS: '/run/secrets' };
  const { start, output } = await supervisor({ environment: async () => ({ ok: true, values }) });
  const print = 'const { FROM, RELEASE, SLUICE_SECRETS } = process.env; console.log(FROM, RELEASE, SLUICE_SECRETS)';
  expect(await start(print)).toEqual({ ok: true });
  await output(/device 1 \/run\/secrets/);
  values = { FROM: 'changed' };
  expect(await start(print)).toEqual({ ok: true });
  await output(/changed 1 undefined/);
});

test('while its variables cannot be read an application is not started, and as soon as they can it is', async () => {
  const state = { ok: false };
  const { start, output, opened } = await supervisor({
    backoffMs: { first: 10, max: 50 },
    environment: async () =>
      state.ok ? { ok: true, values: {} } : { ok: false, message: 'application.env: line 3 has no "="' },
  });
  expect(await start('console.log("runs"); setInterval(() => 0, 1000)', 'restart')).toEqual({
    ok: false,
    message: 'application.env: line 3 has no "="',
  });
  expect(opened.running()).toBeNull();
  state.ok = true;
  await output(/runs/);
});

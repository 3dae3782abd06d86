import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type RequestListener } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { performCheck } from '#agent/application/checks.ts';
import { runCommand } from '#agent/application/command.ts';
import { runTrialHealth, type TrialHealthOptions } from '#agent/deployment/health.ts';
import { processesWithEnvironment } from '#agent/process/process-table.ts';
import { HealthCheck, HealthPolicy } from '#shared/manifest.ts';

const listen = async (listener: RequestListener): Promise<number> => {
  const server = createServer(listener);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const address = server.address();
  return typeof address === 'object' ? address!.port : 0;
};

const never = new AbortController().signal;
const http = (more: object = {}): HealthCheck =>
  HealthCheck.parse({ kind: 'http', url: 'http://127.0.0.1:{port}/health', ...more });
const command = (source: string, more: object = {}): HealthCheck =>
  HealthCheck.parse({ kind: 'command', command: ['node', '-e', source], ...more });
const here = { folder: import.meta.dirname, process: null };

test('an HTTP check passes by its status, on the port of the application', async () => {
  const port = await listen((request, response) => {
    response.statusCode = request.url === '/health' ? 204 : 500;
    response.end();
  });
  expect(await performCheck(http(), { ...here, port }, never)).toEqual({ ok: true, message: '' });
  const sick = await performCheck(http({ url: 'http://127.0.0.1:{port}/other' }), { ...here, port }, never);
  expect(sick).toEqual({ ok: false, message: `http://127.0.0.1:${port}/other answered 500` });
  const tolerant = http({ url: 'http://127.0.0.1:{port}/other', statusMax: 500 });
  expect(await performCheck(tolerant, { ...here, port }, never)).toMatchObject({ ok: true });
});

test('an HTTP check does not follow redirects', async () => {
  const port = await listen((_request, response) => void response.writeHead(302, { location: '/' }).end());
  expect(await performCheck(http(), { ...here, port }, never)).toMatchObject({ ok: false, message: /302/ });
});

test('an HTTP check that hangs, is refused, or has no port fails', async () => {
  const port = await listen(() => undefined);
  const hanging = await performCheck(http({ timeoutMs: 50 }), { ...here, port }, never);
  expect(hanging).toMatchObject({ ok: false, message: /no answer within 50 ms/ });
  expect(await performCheck(http(), { ...here, port: 1 }, never)).toMatchObject({ ok: false, message: /ECONNREFUSED/ });
  expect(await performCheck(http(), here, never)).toMatchObject({ ok: false, message: /port/ });
});

test('a body that never ends does not keep an HTTP check busy', async () => {
  const port = await listen((_request, response) => {
    const pump = (): void => void (response.destroyed || response.write('x'.repeat(65_536), pump));
    pump();
  });
  expect(await performCheck(http(), { ...here, port }, never)).toMatchObject({ ok: true });
});

test('a command check passes by exit code 0, in the folder and with the environment of the application', async () => {
  const look = command(
    'process.exit(process.env.PORT === "9" && process.env.X === "y" && process.cwd() === "/" ? 0 : 1)',
  );
  const options = { folder: '/', port: 9, environment: { X: 'y' }, process: null };
  expect(await performCheck(look, options, never)).toMatchObject({ ok: true });
  const failing = command('console.log("first"); console.log("disk is missing"); process.exit(3)');
  expect(await performCheck(failing, here, never)).toEqual({
    ok: false,
    message: 'node ended with exit code 3: disk is missing'.replace('node', process.execPath),
  });
  const missing = HealthCheck.parse({ kind: 'command', command: ['./no-such-file'] });
  expect(await performCheck(missing, here, never)).toMatchObject({ ok: false, message: /ENOENT/ });
});

/** A process that is killed is gone a moment later than the one whose child it was. */
const noneWith = (mark: string): Promise<void> => expect.poll(() => processesWithEnvironment('MARK', mark)).toEqual([]);

const HANGS = ['sh', '-c', 'sleep 60 & yes | head -c 100000; sleep 60'];

test('a command that hangs is killed with its children, and its output is bounded', async () => {
  const mark = `hang-${process.pid}`;
  const options = { command: HANGS, folder: '/', environment: { MARK: mark } };
  // Long enough for a busy machine to start it.
  const late = await runCommand({ ...options, timeoutMs: 4_000 });
  expect(late).toMatchObject({ ok: false, exitCode: null, message: /did not end within 4000 ms/ });
  // And the mark that it was cut.
  expect(late.output.length).toBe(4_097);
  await noneWith(mark);
  const stop = new AbortController();
  const stopped = runCommand({ ...options, timeoutMs: 60_000, signal: stop.signal });
  stop.abort();
  expect(await stopped).toMatchObject({ ok: false, message: 'stopped' });
  await noneWith(mark);
});

test('a command that leaves a child behind ends, and so does the child', async () => {
  const mark = `leave-${process.pid}`;
  const source = `require('node:child_process').spawn('sleep', ['60'], { stdio: 'inherit' }).unref();`;
  const result = await runCommand({
    command: ['node', '-e', source],
    folder: '/',
    environment: { MARK: mark },
    timeoutMs: 20_000,
  });
  expect(result).toMatchObject({ ok: true });
  await noneWith(mark);
});

const watch = (policy: object, more: Partial<TrialHealthOptions> = {}) => {
  const waiting: string[] = [];
  const verdict = runTrialHealth({
    policy: HealthPolicy.parse({ intervalMs: 50, soakMs: 100, ...policy }),
    elapsedMs: 0,
    folder: '/',
    process: null,
    contact: () => ({ reach: 'broker' }),
    signal: never,
    onWaiting: (sentence) => waiting.push(sentence),
    ...more,
  });
  return { verdict, waiting };
};

/** A process that can be made to exit. */
const fakeProcess = () => {
  const listeners = new Set<(exit: { code: number | null; signal: NodeJS.Signals | null }) => void>();
  let alive = true;
  return {
    listeners,
    exit: (code: number): void => {
      alive = false;
      for (const listener of listeners) listener({ code, signal: null });
    },
    running: () => (alive ? {} : null),
    listen: (listener: (exit: { code: number | null; signal: NodeJS.Signals | null }) => void) => {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
  };
};

test('a version whose checks pass and go on passing is healthy', async () => {
  let asked = 0;
  const port = await listen((_request, response) => {
    asked += 1;
    // Not ready at first.
    response.statusCode = asked < 3 ? 503 : 200;
    response.end();
  });
  const process = fakeProcess();
  const { verdict, waiting } = watch({ checks: [http(), command('0')] }, { port, process });
  expect(await verdict).toEqual({ verdict: 'healthy' });
  expect(asked).toBeGreaterThanOrEqual(3);
  expect(waiting.at(-1)).toBe('well; must stay so for 100 ms');
  expect(process.listeners.size).toBe(0);
});

test('a version that exits while it is watched has crashed', async () => {
  const process = fakeProcess();
  const { verdict } = watch({ soakMs: 60_000 }, { process, onWaiting: () => process.exit(3) });
  expect(await verdict).toMatchObject({ verdict: 'failed', code: 'TRIAL_CRASHED', message: /code 3/ });
});

test('a version that exited before anyone watched has crashed', async () => {
  const process = fakeProcess();
  process.exit(1);
  expect(await watch({}, { process }).verdict).toMatchObject({ verdict: 'failed', code: 'TRIAL_CRASHED' });
});

test('a version that breaks the network fails at the deadline', async () => {
  const { verdict } = watch(
    { deadlineMs: 200 },
    { contact: () => ({ reach: 'none', why: 'there is no route to the server' }) },
  );
  expect(await verdict).toMatchObject({ verdict: 'failed', code: 'TRIAL_DEADLINE', message: /server/ });
});

test('a version that hangs fails at the deadline, counted from before the restart of the agent', async () => {
  const port = await listen(() => undefined);
  const policy = { checks: [http({ timeoutMs: 50 })], deadlineMs: 60_000 };
  const { verdict } = watch(policy, { port, elapsedMs: 57_000 });
  expect(await verdict).toMatchObject({ verdict: 'failed', code: 'SELFTEST_FAILED', message: /no answer/ });
});

test('a trial that is stopped is undecided, and leaves no check behind', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-health-'));
  onTestFinished(() => rm(dir, { recursive: true, force: true }));
  const mark = `stop-${process.pid}`;
  const check = command(`require('fs').writeFileSync('started', ''); setInterval(() => 0, 1000)`);
  const stop = new AbortController();
  const options = { folder: dir, environment: { MARK: mark }, signal: stop.signal };
  const { verdict } = watch({ checks: [check] }, options);
  await expect.poll(() => readFile(join(dir, 'started'), 'utf8').catch(() => null)).toBe('');
  stop.abort();
  expect(await verdict).toEqual({ verdict: 'aborted' });
  await noneWith(mark);
});

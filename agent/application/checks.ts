/** Performs one health check once: what each kind means on this device. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { unreachable } from '#shared/ids.ts';
import type { HealthCheck } from '#shared/manifest.ts';
import { type FileAges, openFileAges } from '../disk/file-ages.ts';
import type { WatchedProcess } from '../domain/slots.ts';
import { lookIntoProcess, lookOutside } from '../process/outside.ts';
import { lookUpProcess } from '../process/process-table.ts';
import { errorCode } from '../process/system-error.ts';
import { connectOnce } from '../server/network.ts';
import { httpClient } from '../server/node-http.ts';
import { runCommand } from './command.ts';
import { CUT } from './redact.ts';

export type CheckOptions = {
  /** Replaces `{port}`, and is the `PORT` of command checks. */
  port?: number;
  /** Where command checks run, and relative paths begin: the slot's folder. */
  folder: string;
  /** Of command checks. */
  environment?: Record<string, string>;
  /** Replaces `{data}` at the beginning of a path. */
  dataDir?: string;
  /** What the agent runs from the slots; null when it runs nothing. */
  process: Pick<WatchedProcess, 'running'> | null;
  /** What earlier looks saw of files; without it each look is the first. */
  ages?: FileAges;
};

/** `message` says what was wrong. */
export type CheckResult = { ok: true; message: '' } | { ok: false; message: string };

const GOOD: CheckResult = { ok: true, message: '' };
const bad = (message: string): CheckResult => ({ ok: false, message });
const TIMER_MS_MAX = 2 ** 31 - 1;
const CHECK_CHARS_MAX = 200;
/** The kernel keeps so many characters of a program's name. */
const COMM_CHARS = 15;
/** USER_HZ: the unit of times in /proc, the same on every Linux that Node runs on. */
const MS_PER_TICK = 10;

type Of<K extends HealthCheck['kind']> = Extract<HealthCheck, { kind: K }>;

/** Never rejects: what cannot even be tried has not passed. */
export const performCheck = (check: HealthCheck, options: CheckOptions, signal: AbortSignal): Promise<CheckResult> =>
  tryCheck(check, options, signal).catch((error: unknown) => bad(String(error)));

const tryCheck = async (check: HealthCheck, options: CheckOptions, signal: AbortSignal): Promise<CheckResult> => {
  switch (check.kind) {
    case 'command':
      return checkCommand(check, options, signal);
    case 'http':
      return checkHttp(check, options, signal);
    case 'tcp':
      return checkTcp(check, options, signal);
    case 'process':
      return checkProcess(check, options, signal);
    case 'file':
      return checkFile(check, options, signal);
    default:
      return unreachable(check);
  }
};

const checkCommand = async (
  { command, timeoutMs }: Of<'command'>,
  { folder, environment, port }: CheckOptions,
  signal: AbortSignal,
): Promise<CheckResult> => {
  const result = await runCommand({
    command,
    folder,
    timeoutMs,
    signal,
    ...(environment === undefined ? {} : { environment }),
    ...(port === undefined ? {} : { port }),
  });
  if (result.ok) return GOOD;
  const said = result.output.trim().split('\n').at(-1) ?? '';
  return bad(
    said === ''
      ? result.message
      : `${result.message}: ${said.slice(0, CHECK_CHARS_MAX)}${said.length > CHECK_CHARS_MAX ? CUT : ''}`,
  );
};

const NO_PORT = bad('the check asks for the port of the application, and none is configured');

const checkHttp = async (check: Of<'http'>, { port }: CheckOptions, signal: AbortSignal): Promise<CheckResult> => {
  if (port === undefined && check.url.includes('{port}')) return NO_PORT;
  const url = new URL(check.url.replace('{port}', String(port)));
  return withinTime(url.href, check.timeoutMs, signal, async (limit) => {
    const code = await requestStatus(url, limit);
    return code >= 200 && code <= check.statusMax ? GOOD : bad(`${url.href} answered ${code}`);
  });
};

const checkTcp = async (check: Of<'tcp'>, options: CheckOptions, signal: AbortSignal): Promise<CheckResult> => {
  const port = check.port === '{port}' ? options.port : check.port;
  if (port === undefined) return NO_PORT;
  return withinTime(`${check.host} port ${port}`, check.timeoutMs, signal, async (limit) => {
    await connectOnce(check.host, port, limit);
    return GOOD;
  });
};

/** Names the system's error, or the time that was not kept. */
const withinTime = async (
  what: string,
  timeoutMs: number,
  signal: AbortSignal,
  act: (limit: AbortSignal) => Promise<CheckResult>,
): Promise<CheckResult> => {
  const clock = AbortSignal.timeout(Math.min(timeoutMs, TIMER_MS_MAX));
  try {
    return await act(AbortSignal.any([signal, clock]));
  } catch (error) {
    return bad(`${what}: ${clock.aborted ? `no answer within ${timeoutMs} ms` : errorCode(error) || String(error)}`);
  }
};

/**
 * The status code; neither redirects nor the body are looked at. A connection of its own, closed at once: a pooled one
 * could outlive the version.
 */
const requestStatus = async (url: URL, signal: AbortSignal): Promise<number> => {
  const answered = Promise.withResolvers<number>();
  const asking = httpClient(url).request(
    url,
    { agent: false, signal, headers: { 'user-agent': 'sluice-agent' } },
    (response) => {
      answered.resolve(response.statusCode ?? 0);
      response.destroy();
    },
  );
  asking.on('error', answered.reject);
  asking.end();
  return answered.promise;
};

const checkProcess = async (check: Of<'process'>, options: CheckOptions, signal: AbortSignal): Promise<CheckResult> => {
  const { program, pidFile, upMs } = check;
  if (program === undefined && pidFile === undefined) {
    const running = options.process?.running() ?? null;
    if (running === null) return bad(options.process === null ? 'the agent runs no application' : 'it does not run');
    return upLongEnough('the application', running.ranMs ?? Number.POSITIVE_INFINITY, upMs);
  }
  const found =
    program === undefined ? await pidIn(placeOf(pidFile!, options), signal) : await processesNamed(program, signal);
  const what = program ?? `the process of ${pidFile}`;
  const ages = (await Promise.all(found.map(ageOf))).filter((age) => age !== undefined);
  return ages.length === 0 ? bad(`${what} does not run`) : upLongEnough(what, Math.max(...ages), upMs);
};

const upLongEnough = (what: string, ageMs: number, upMs: number): CheckResult =>
  ageMs >= upMs ? GOOD : bad(`${what} has run for only ${Math.max(0, Math.round(ageMs))} ms`);

const pidIn = async (file: string, signal: AbortSignal): Promise<number[]> => {
  const text = await lookOutside(() => readFile(file, 'utf8'), { signal }).catch(() => '');
  const pid = Number(/^\s*(\d{1,10})\s*$/.exec(text)?.[1] ?? 0);
  return pid > 1 ? [pid] : [];
};

const processesNamed = async (program: string, signal: AbortSignal): Promise<number[]> => {
  const pids = (await readdir('/proc').catch(() => [])).map(Number).filter(Number.isInteger);
  const named = await Promise.all(
    pids.map(async (pid) => {
      const comm = (await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '')).trimEnd();
      if (comm === program.slice(0, COMM_CHARS)) return true;
      // A thread may have renamed itself; the command line still has the program.
      const read = () => readFile(`/proc/${pid}/cmdline`, 'utf8');
      const [first] = (await lookIntoProcess(read, { signal }).catch(() => '')).split('\0');
      return first !== undefined && first !== '' && basename(first) === program;
    }),
  );
  return pids.filter((_, index) => named[index]);
};

/**
 * Undefined when it does not run (any more). Reckoned from the agent's own start, which /proc counts from the same
 * moment: the uptime of a container may be its own, and no clock is involved that is set.
 */
const ageOf = async (pid: number): Promise<number | undefined> => {
  const [there, agent] = await Promise.all([lookUpProcess(pid), lookUpProcess(process.pid)]);
  if (there === undefined || there.zombie || agent === undefined) return undefined;
  const ageMs = process.uptime() * 1_000 + (Number(agent.startTicks) - Number(there.startTicks)) * MS_PER_TICK;
  // The agent's own clock begins a little after its process did.
  return Math.max(0, ageMs);
};

const checkFile = async (check: Of<'file'>, options: CheckOptions, signal: AbortSignal): Promise<CheckResult> => {
  const file = placeOf(check.path, options);
  const { ages = openFileAges() } = options;
  try {
    const ageMs = ages.see(file, (await lookOutside(() => stat(file), { signal })).mtimeMs, check.withinMs);
    // The clock was set back; what writes the file will soon write it again.
    if (ageMs === 'future') return bad(`${file} was modified in the future`);
    return ageMs <= check.withinMs ? GOOD : bad(`${file} was modified ${Math.round(ageMs)} ms ago`);
  } catch (error) {
    ages.miss(file);
    return bad(`${file}: ${errorCode(error) || String(error)}`);
  }
};

const placeOf = (path: string, { folder, dataDir }: CheckOptions): string =>
  resolve(folder, dataDir === undefined ? path : path.replace(/^\{data\}(?=\/|$)/, () => dataDir));

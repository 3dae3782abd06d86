/** Watches a trial: performs the manifest's checks until the version is proven or has failed. What that means is in domain/health.ts. */
import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import type { HealthCheck, HealthPolicy } from '#shared/manifest.ts';
import { runCommand } from './command.ts';
import { type HealthEvent, type HealthFailure, missing, startHealth, stepHealth } from './domain/health.ts';
import { exitSentence } from './supervisor.ts';
import { errorCode } from './system-error.ts';

export type TrialHealthOptions = {
  policy: HealthPolicy;
  /** How much of the deadline an earlier run of the agent used already; 0 for a new trial. */
  elapsedMs: number;
  /** Replaces `{port}` in a check's URL, and is the `PORT` of command checks. */
  port?: number;
  /** Where command checks run: the slot's folder. */
  folder: string;
  environment?: Record<string, string>;
  /** The supervisor fits. Null for a version without an application: it counts as running. */
  process: {
    running(): unknown;
    listen(listener: (exit: { code: number | null; signal: NodeJS.Signals | null }) => void): () => void;
  } | null;
  /** Whether the server answers now (the link is up); looked at several times a second. */
  serverReachable: () => boolean;
  signal: AbortSignal;
  /** Every change of the one sentence that says what the trial waits for. */
  onWaiting?(sentence: string): void;
};

export type TrialVerdict =
  | { verdict: 'healthy' }
  | ({ verdict: 'failed' } & HealthFailure)
  /** `signal` was aborted; the trial is undecided. */
  | { verdict: 'aborted' };

const TICK_MS_MAX = 250;
const TIMER_MS_MAX = 2 ** 31 - 1;

/** Resolves by the deadline (and a tick) at the latest. None of its checks runs any more when it does. */
export const runTrialHealth = async (options: TrialHealthOptions): Promise<TrialVerdict> => {
  const { policy, process } = options;
  const began = performance.now();
  const at = (): number => options.elapsedMs + performance.now() - began;
  const decided = Promise.withResolvers<TrialVerdict>();
  const stop = new AbortController();
  let state = startHealth(policy, options.elapsedMs);
  let said = '';

  const feed = (event: HealthEvent): void => {
    const { next, verdict } = stepHealth(state, event, policy);
    state = next;
    if (verdict === 'healthy') return decided.resolve({ verdict });
    if (verdict !== 'waiting') return decided.resolve({ verdict: 'failed', ...verdict.failed });
    const sentence = missing(state, policy) ?? `well; must stay so for ${policy.soakMs} ms`;
    if (sentence === said) return;
    said = sentence;
    options.onWaiting?.(sentence);
  };
  const look = (): void => feed({ kind: 'server', at: at(), reachable: options.serverReachable() });
  const abort = (): void => decided.resolve({ verdict: 'aborted' });

  // Listening first: an exit after this line is heard, one before it is seen by `running`.
  const unlisten = process?.listen((exit) => feed({ kind: 'process-exited', at: at(), why: exitSentence(exit) }));
  const runs = process === null || process.running() !== null;
  feed(
    runs ? { kind: 'process-up', at: at() } : { kind: 'process-exited', at: at(), why: 'the application does not run' },
  );
  look();
  const ticking = setInterval(look, Math.min(policy.intervalMs, TICK_MS_MAX));
  const rounds = repeatChecks(options, stop.signal, (check, result) =>
    feed({ kind: 'checked', at: at(), check, ...result }),
  );
  options.signal.addEventListener('abort', abort);
  if (options.signal.aborted) abort();
  try {
    return await decided.promise;
  } finally {
    options.signal.removeEventListener('abort', abort);
    clearInterval(ticking);
    unlisten?.();
    stop.abort();
    await rounds;
  }
};

type CheckResult = { ok: boolean; message: string };

/** All checks at the same time, then again when the interval is over and all have ended. Ends when `signal` says so. */
const repeatChecks = async (
  options: TrialHealthOptions,
  signal: AbortSignal,
  onResult: (check: number, result: CheckResult) => void,
): Promise<void> => {
  const { checks, intervalMs } = options.policy;
  if (checks.length === 0) return;
  while (!signal.aborted) {
    const next = sleep(Math.min(intervalMs, TIMER_MS_MAX), undefined, { signal }).catch(() => undefined);
    await Promise.all(
      checks.map(async (check, index) => {
        const result = await performCheck(check, options, signal);
        if (!signal.aborted) onResult(index, result);
      }),
    );
    await next;
  }
};

/** Performs one check once. Never rejects; `message` says what was wrong. */
export const performCheck = async (
  check: HealthCheck,
  options: Pick<TrialHealthOptions, 'port' | 'folder' | 'environment'>,
  signal: AbortSignal,
): Promise<CheckResult> => {
  if (check.kind === 'command') {
    const { command, timeoutMs } = check;
    const result = await runCommand({ ...options, command, timeoutMs, signal });
    if (result.ok) return { ok: true, message: '' };
    const said = result.output.trim().split('\n').at(-1) ?? '';
    return { ok: false, message: said === '' ? result.message : `${result.message}: ${said.slice(0, 200)}` };
  }
  if (options.port === undefined && check.url.includes('{port}')) {
    return { ok: false, message: 'the check asks for the port of the application, and none is configured' };
  }
  const url = new URL(check.url.replace('{port}', String(options.port)));
  const clock = AbortSignal.timeout(Math.min(check.timeoutMs, TIMER_MS_MAX));
  try {
    const code = await requestStatus(url, AbortSignal.any([signal, clock]));
    const ok = code >= 200 && code <= check.statusMax;
    return { ok, message: ok ? '' : `${url.href} answered ${code}` };
  } catch (error) {
    const why = clock.aborted ? `no answer within ${check.timeoutMs} ms` : errorCode(error) || String(error);
    return { ok: false, message: `${url.href}: ${why}` };
  }
};

/** The status code; neither redirects nor the body are looked at. A connection of its own, closed at once: a pooled one could outlive the version. */
const requestStatus = async (url: URL, signal: AbortSignal): Promise<number> => {
  const answered = Promise.withResolvers<number>();
  const request = url.protocol === 'https:' ? requestHttps : requestHttp;
  const asking = request(url, { agent: false, signal, headers: { 'user-agent': 'sluice-agent' } }, (response) => {
    answered.resolve(response.statusCode ?? 0);
    response.destroy();
  });
  asking.on('error', answered.reject);
  asking.end();
  return answered.promise;
};

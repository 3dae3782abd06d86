/**
 * Watches a trial: performs the manifest's checks until the version is proven or has failed. What that means is in
 * domain/health.ts.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { HealthPolicy } from '#shared/manifest.ts';
import { type CheckOptions, type CheckResult, performCheck } from '../application/checks.ts';
import { exitSentence } from '../application/supervisor.ts';
import { openFileAges } from '../disk/file-ages.ts';
import type { Contact } from '../domain/contact.ts';
import { type HealthEvent, type HealthFailure, missing, startHealth, stepHealth } from '../domain/health.ts';
import type { WatchedProcess } from '../domain/slots.ts';

export type TrialHealthOptions = Omit<CheckOptions, 'process' | 'ages'> & {
  policy: HealthPolicy;
  /** How much of the deadline an earlier run of the agent used already; 0 for a new trial. */
  elapsedMs: number;
  /** The supervisor fits. Null for a version without an application: it counts as running. */
  process: WatchedProcess | null;
  /** How far the device gets now; looked at several times a second. */
  contact: () => Contact;
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
/** From the verdict until checks are left alone that cannot be ended. */
const ROUNDS_MS_MAX = 4_000;
const TIMER_MS_MAX = 2 ** 31 - 1;

/**
 * Resolves by the deadline, and the few seconds that it takes to end checks. None of them runs any more when it does,
 * but for what cannot be killed.
 */
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
  const look = (): void => feed({ kind: 'server', at: at(), contact: options.contact() });
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
    // They end soon; the verdict waits for none that does not.
    await Promise.race([rounds, sleep(ROUNDS_MS_MAX, undefined, { ref: false })]);
  }
};

/** All checks at the same time, then again when the interval is over and all have ended. Ends when `signal` says so. */
const repeatChecks = async (
  options: TrialHealthOptions,
  signal: AbortSignal,
  onResult: (check: number, result: CheckResult) => void,
): Promise<void> => {
  const { checks, intervalMs } = options.policy;
  const ages = openFileAges();
  if (checks.length === 0) return;
  while (!signal.aborted) {
    const next = sleep(Math.min(intervalMs, TIMER_MS_MAX), undefined, { signal }).catch(() => undefined);
    await Promise.all(
      checks.map(async (check, index) => {
        const result = await performCheck(check, { ...options, ages }, signal);
        if (!signal.aborted) onResult(index, result);
      }),
    );
    await next;
  }
};

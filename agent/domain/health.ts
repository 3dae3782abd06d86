/**
 * When a version on trial is proven. It is well while its process is up, every check passed the last time it ran, and
 * the server is reached as far as the policy asks. Well without interruption for the soak time is healthy. An exit of
 * the process fails at once; passing the deadline fails with what was missing. All times are milliseconds of the trial
 * (monotonic, 0 at its start), so that setting the clock moves no deadline.
 */
import { unreachable } from '#shared/ids.ts';
import type { HealthCheck, HealthPolicy } from '#shared/manifest.ts';
import { type Contact, contactSentence, isEnough } from './contact.ts';

export type HealthEvent =
  | { kind: 'process-up'; at: number }
  | { kind: 'process-exited'; at: number; why: string }
  /** `check` is its index in the policy. */
  | { kind: 'checked'; at: number; check: number; ok: boolean; message: string }
  | { kind: 'server'; at: number; contact: Contact }
  | { kind: 'tick'; at: number };

/**
 * `TRIAL_CRASHED`: the process exited. `SELFTEST_FAILED`: a check did not pass in time. `TRIAL_DEADLINE`: anything else
 * was missing in time.
 */
export type HealthFailure = { code: 'TRIAL_CRASHED' | 'SELFTEST_FAILED' | 'TRIAL_DEADLINE'; message: string };
export type HealthVerdict = 'waiting' | 'healthy' | { failed: HealthFailure };

export type HealthState = {
  /** The newest time seen: time does not run backwards here. */
  now: number;
  processUp: boolean;
  /** By index: `unknown` until it ran for the first time. */
  checks: ('unknown' | 'passed' | { failed: string })[];
  contact: Contact;
  /** Since when everything has been well without interruption. */
  healthySince: number | null;
  verdict: HealthVerdict;
};

/** `elapsedMs`: what an earlier run of the agent has used of the deadline. */
export const startHealth = (policy: HealthPolicy, elapsedMs: number): HealthState => ({
  now: elapsedMs,
  processUp: false,
  checks: policy.checks.map(() => 'unknown'),
  contact: { reach: 'unknown' },
  healthySince: null,
  verdict: 'waiting',
});

/** A verdict is final: later events change nothing. */
export const stepHealth = (
  state: HealthState,
  event: HealthEvent,
  policy: HealthPolicy,
): { next: HealthState; verdict: HealthVerdict } => {
  if (state.verdict !== 'waiting') return { next: state, verdict: state.verdict };
  const seen = observe({ ...state, now: Math.max(state.now, event.at) }, event);
  const healthySince = missing(seen, policy) === null ? (seen.healthySince ?? seen.now) : null;
  const next = { ...seen, healthySince };
  const verdict = decide(next, event, policy);
  return { next: { ...next, verdict }, verdict };
};

const observe = (state: HealthState, event: HealthEvent): HealthState => {
  switch (event.kind) {
    case 'process-up':
      return { ...state, processUp: true };
    case 'process-exited':
      return { ...state, processUp: false };
    case 'checked': {
      const found = event.ok ? ('passed' as const) : { failed: event.message };
      return { ...state, checks: state.checks.map((last, index) => (index === event.check ? found : last)) };
    }
    case 'server':
      return { ...state, contact: event.contact };
    case 'tick':
      return state;
    default:
      return unreachable(event);
  }
};

const decide = (state: HealthState, event: HealthEvent, policy: HealthPolicy): HealthVerdict => {
  if (event.kind === 'process-exited') return { failed: { code: 'TRIAL_CRASHED', message: event.why } };
  const soaked = state.healthySince !== null && state.now - state.healthySince >= policy.soakMs;
  // A soak that was complete by the deadline counts, however late this event looks at it.
  if (soaked && state.healthySince! + policy.soakMs <= policy.deadlineMs) return 'healthy';
  if (state.now < policy.deadlineMs) return 'waiting';
  const message = `after ${policy.deadlineMs} ms: ${missing(state, policy) ?? 'the soak time was not over'}`;
  const failing = state.checks.some((check) => check !== 'passed' && check !== 'unknown');
  return { failed: { code: failing ? 'SELFTEST_FAILED' : 'TRIAL_DEADLINE', message } };
};

/** What keeps the trial from being well, as a sentence; null when nothing does. */
export const missing = (state: HealthState, policy: HealthPolicy): string | null => {
  if (!state.processUp) return 'the application does not run';
  for (const [index, check] of state.checks.entries()) {
    if (check === 'unknown') return `${checkName(policy.checks, index)} has not finished yet`;
    if (check !== 'passed') return `${checkName(policy.checks, index)} fails: ${check.failed}`;
  }
  return isEnough(state.contact, policy.serverContact) ? null : contactSentence(state.contact);
};

/** By its name where it has one. */
export const checkName = (checks: readonly HealthCheck[], index: number): string =>
  checks[index]?.name === undefined ? `check ${index + 1} of ${checks.length}` : `the check ${checks[index].name}`;

/**
 * Whether a device that failed is offered the release again. Only where the cause lies outside the release, only so
 * often, and not at once: a device that flaps waits longer each time, and uses up neither the rollout nor the judge's
 * patience.
 */
import type { DeploymentState, DeviceErrorCode } from '#shared/deployment.ts';
import type { Millis } from '#shared/ids.ts';
import type { Policy } from '#shared/policy.ts';
import { durationWords, plural } from '../words.ts';
import type { Attempts, DeploymentRecord } from './deployment.ts';

/**
 * The network, the disk or the server was at fault. Not a signature, a digest, a hook or a self-test: those fail again,
 * and tell of the release.
 */
export const RETRIED: ReadonlySet<DeviceErrorCode> = new Set([
  'TIME_UNTRUSTED',
  'TIMESTAMP_UNAVAILABLE',
  'SNAPSHOT_UNAVAILABLE',
  'TARGETS_UNAVAILABLE',
  'DELEGATED_UNAVAILABLE',
  'NO_SPACE',
  'SLOW_RETRIEVAL',
  'FETCH_FAILED',
]);
/** Its user held it back until the offer expired. That is no failure, however often. */
const DEFERRED: DeviceErrorCode = 'INSTRUCTION_EXPIRED';

const isRepeated = (code: DeviceErrorCode | undefined): boolean =>
  code !== undefined && (RETRIED.has(code) || code === DEFERRED);

/**
 * Is this report about an attempt that is over? Reports are repeated and come late, so the same failure may be told again
 * when the next attempt is planned, or offered already; so may the withdrawal of an offer that was made again. What
 * cannot be undone counts all the same: an activation, its outcome, and a failure for a final cause.
 */
export const isOver = (
  { state, offers }: Pick<DeploymentRecord, 'state' | 'offers'>,
  report: { attempt?: number | undefined; error?: { code: DeviceErrorCode } | undefined },
  told: DeploymentState,
): boolean => {
  const isRepeatable = told === 'failed' && isRepeated(report.error?.code);
  if (state === 'planned') return isRepeatable;
  if ((report.attempt ?? 1) >= (offers ?? 1)) return false;
  return isRepeatable || !(told === 'trial' || told === 'committed' || told === 'reverted' || told === 'failed');
};

/** Planned devices that are not offered the release again yet, and when the first of them may be. */
export type CoolingDown = { devices: number; next: Millis };

/** A main clause without a full stop. */
export const coolDownWords = ({ devices, next }: CoolingDown, now: Millis): string =>
  `${plural(devices, 'device')} ${devices === 1 ? 'cools' : 'cool'} down after an attempt that ended for a cause outside of the release: ${devices === 1 ? 'it is' : 'the first is'} offered it again in ${durationWords(next - now)} at the earliest`;

const NONE: Attempts = { ended: 0, failed: 0, notBefore: null, returns: 0 };
/** Longer than this, or than the first wait, no one waits for another attempt. */
const COOL_DOWN_MS_MAX = 86_400_000;
const DOUBLINGS_MAX = 30;
/** A device that says "withdrawn" and "on trial" in turn is believed so often. */
const RETURNS_MAX = 3;

/** The attempts so far with this one, which failed before anything could boot; null where it is not to be repeated. */
export const retryOf = (
  deployment: Pick<DeploymentRecord, 'state' | 'attempts'>,
  code: DeviceErrorCode | undefined,
  now: Millis,
  { retries }: Pick<Policy, 'retries'>,
): Attempts | null => {
  const before = deployment.attempts ?? NONE;
  const { state } = deployment;
  const isEarly = state === 'offered' || state === 'fetching' || state === 'installing' || state === 'ready';
  if (!isEarly || code === undefined || retries.max === 0) return null;
  if (code === DEFERRED) return { ...before, ended: before.ended + 1, notBefore: now + retries.coolDownMs };
  if (!RETRIED.has(code) || before.failed >= retries.max) return null;
  const doubledMs = retries.coolDownMs * 2 ** Math.min(before.failed, DOUBLINGS_MAX);
  const waitMs = Math.max(retries.coolDownMs, Math.min(COOL_DOWN_MS_MAX, doubledMs));
  return { ...before, ended: before.ended + 1, failed: before.failed + 1, notBefore: now + waitMs };
};

/** The attempts with one more return from `withdrawn`; null where there were too many. */
export const returnOf = ({ attempts }: Pick<DeploymentRecord, 'attempts'>): Attempts | null => {
  const before = attempts ?? NONE;
  return before.returns >= RETURNS_MAX ? null : { ...before, returns: before.returns + 1 };
};

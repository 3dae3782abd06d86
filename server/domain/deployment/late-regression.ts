/**
 * A device that committed and then turns out badly, seen from its heartbeats: for a while after its commit it is
 * watched. Its own bad news (`reverted`, `failed`) is taken at any time, by deployment-step.ts; this is for the device
 * that says nothing.
 */
import { type Millis, type Sha256, unreachable } from '#shared/ids.ts';
import type { Policy } from '#shared/policy.ts';
import { BY_SERVER } from '../audit.ts';
import type { DeploymentRecord } from './deployment.ts';
import type { DeploymentStep } from './deployment-step.ts';

/** What heartbeats since the commit told of a device. */
export type WatchedHealth = {
  /** Since when every heartbeat has said "unhealthy"; null after one that said otherwise. */
  unhealthySince: Millis | null;
  /** How often, since the commit, it fell from healthy to unhealthy or its agent started again. */
  restarts: number;
  /** The manifest that it runs, and the one that it committed; null when not known. */
  runs: Sha256 | null;
  committed: Sha256 | null;
  lastSeenAt: Millis | null;
  /** Why it is unhealthy, in its newest report, if that says. */
  says?: string;
};

/** `left`: it runs another release, though no one told it to. */
export type Regression =
  | { kind: 'left' }
  | { kind: 'restarts'; restarts: number }
  | { kind: 'unhealthy'; forMs: number; says?: string };

/** What is wrong with a device that is being watched; null when nothing is, or when its watch is over. */
export const regressionOf = (
  deployment: Pick<DeploymentRecord, 'state' | 'decidedAt'>,
  health: WatchedHealth,
  now: Millis,
  { watch }: Pick<Policy, 'watch'>,
): Regression | null => {
  const { state, decidedAt } = deployment;
  if (state !== 'committed' || decidedAt === null || now >= decidedAt + watch.watchMs) return null;
  const { runs, committed, restarts, unhealthySince, lastSeenAt, says } = health;
  if (runs !== null && committed !== null && runs !== committed) return { kind: 'left' };
  if (restarts > watch.restartsMax) return { kind: 'restarts', restarts };
  // From its first bad word to its last: a device that fell silent says nothing more about its health.
  const forMs = unhealthySince === null || lastSeenAt === null ? 0 : lastSeenAt - unhealthySince;
  return unhealthySince !== null && forMs >= watch.unhealthyMs
    ? { kind: 'unhealthy', forMs, ...(says === undefined ? {} : { says }) }
    : null;
};

/** A main clause without a full stop. */
const words = (regression: Regression): string => {
  switch (regression.kind) {
    case 'left':
      return 'it runs another release, though no one told it to';
    case 'restarts':
      return `it started again or fell ill ${regression.restarts} times since its commit`;
    case 'unhealthy':
      return `it has called itself unhealthy for ${Math.round(regression.forMs / 1000)} s${regression.says === undefined ? '' : `: ${regression.says}`}`;
    default:
      return unreachable(regression);
  }
};

/**
 * A watched device that does not do well moves from the healthy to the failed; the very same object when all is well.
 */
export const stepWatched = (
  deployment: DeploymentRecord,
  health: WatchedHealth,
  now: Millis,
  policy: Pick<Policy, 'watch'>,
): DeploymentStep => {
  const regression = regressionOf(deployment, health, now, policy);
  if (regression === null) return { next: deployment, audit: [] };
  const to = regression.kind === 'left' ? 'reverted' : 'failed';
  const why = words(regression);
  const { rollout, id, device } = deployment;
  return {
    next: { ...deployment, state: to, stateAt: now, decidedAt: now, error: { code: 'REGRESSED', message: why } },
    audit: [{ at: now, by: BY_SERVER, kind: 'regressed', rollout, deployment: id, device, to, why }],
  };
};

/**
 * Until when someone of these may still be watched, by the latest commit that the bins can hold; null when no one is.
 */
export const watchEndsAt = (
  bins: readonly { outcome: string; startBin: number | null; delayBins: number | null }[],
  binMs: number,
  watchMs: number,
): Millis | null => {
  let last: number | null = null;
  for (const { outcome, startBin, delayBins } of bins) {
    if (outcome !== 'healthy' || startBin === null || delayBins === null) continue;
    last = Math.max(last ?? 0, (startBin + delayBins + 2) * binMs);
  }
  return last === null || watchMs === 0 ? null : last + watchMs;
};

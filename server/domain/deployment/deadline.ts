/** Until when a device that accepted has to come to the next state, and what it is called when it does not. */
import type { DeploymentState } from '#shared/deployment.ts';
import type { Millis } from '#shared/ids.ts';
import type { Policy } from '#shared/policy.ts';

type Deadlines = Policy['deadlines'];
type Times = {
  acceptedAt: Millis;
  /** When the present state was entered. */
  stateAt: Millis;
  /** No one could report before, since the server was away. */
  graceUntil?: Millis | undefined;
};

/** From acceptance for what comes until everything is fetched, then from when each state was entered. */
const limitOf = (state: DeploymentState, { acceptedAt, stateAt }: Times, deadlines: Deadlines): Millis => {
  const { fetchMs, installMs, readyMs, trialMs } = deadlines;
  const never = Number.POSITIVE_INFINITY;
  switch (state) {
    case 'offered':
    case 'fetching':
      return acceptedAt + (fetchMs ?? never);
    case 'installing':
      return stateAt + (installMs ?? never);
    case 'ready':
      return stateAt + (readyMs ?? never);
    case 'trial':
      return stateAt + (trialMs ?? never);
    default:
      return never;
  }
};

/**
 * The earlier of the state's own limit and the one of the whole deployment, which a server that was away may have moved.
 */
export const deadlineOf = (state: DeploymentState, times: Times, deadlines: Deadlines): Millis =>
  Math.min(Math.max(times.acceptedAt + deadlines.outcomeMs, times.graceUntil ?? 0), limitOf(state, times, deadlines));

/** What a device that was held back has, from when it may activate. */
export const readyWithinMs = ({ readyMs, outcomeMs }: Deadlines): number => Math.min(readyMs ?? outcomeMs, outcomeMs);

/**
 * A device that spoke within this time is still there: agents send a heartbeat each minute, and wait no longer than
 * this to connect again.
 */
export const HEARD_WITHIN_MS = 300_000;

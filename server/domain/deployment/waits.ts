/** Deployments that wait because their device was told to: for a window, for a time, or for a command. Pure. */
import type { Millis } from '#shared/ids.ts';
import type { DeploymentRecord } from './deployment.ts';

/** The wait is over: what is installed is at risk from now on, and has `withinMs` to activate. */
export const endWait = (deployment: DeploymentRecord, now: Millis, withinMs: number): DeploymentRecord =>
  deployment.state === 'ready'
    ? { ...deployment, heldUntil: null, acceptedAt: now, deadlineAt: now + withinMs }
    : { ...deployment, heldUntil: null };

/**
 * What it waits for now comes at another time: its deadline is as long after that as it was. Undefined where nothing
 * changes.
 */
export const waitUntil = (deployment: DeploymentRecord, heldUntil: Millis): DeploymentRecord | undefined => {
  const { heldUntil: before, deadlineAt } = deployment;
  if (before === null || before === heldUntil) return undefined;
  return { ...deployment, heldUntil, deadlineAt: deadlineAt === null ? null : deadlineAt + heldUntil - before };
};

/** The server was away: no report could reach it, so that none is late before this. */
export const grantGrace = (deployment: DeploymentRecord, until: Millis): DeploymentRecord => ({
  ...deployment,
  deadlineAt: until,
  graceUntil: until,
});

/**
 * A device that was given up as overdue turns up, and does not know of its deployment any more: what it runs then tells
 * how it went. Bad news is taken at its word; good news would need its receipt, so a device that runs the release stays
 * as it is.
 */
import type { Running } from '#shared/deployment.ts';
import type { Millis, Sha256 } from '#shared/ids.ts';
import { byDevice } from '../audit.ts';
import type { DeploymentRecord } from './deployment.ts';
import type { DeploymentStep } from './deployment-step.ts';

/** Where it leads that an idle device runs another manifest than the deployment's; null where that is no news. */
const whereTo = ({ overdue, reached }: DeploymentRecord): 'reverted' | 'withdrawn' | null => {
  if (overdue === null || overdue === 'never-heard') return null;
  if (reached === 'trial') return 'reverted';
  // It was away, and nothing was activated. A device that was there all the time and did not get on is not excused.
  return overdue === 'silent' ? 'withdrawn' : null;
};

/** The very same object where nothing changes. */
export const stepLate = (
  deployment: DeploymentRecord,
  running: Running | null,
  manifest: Sha256 | undefined,
  now: Millis,
): DeploymentStep => {
  const to = whereTo(deployment);
  if (to === null || running === null || running.manifest === manifest) return { next: deployment, audit: [] };
  const { rollout, id, device, state: from } = deployment;
  const message = `it does not know of its deployment any more, and runs ${running.product}@${running.version}`;
  const error = to === 'reverted' ? { code: 'JOURNAL_LOST' as const, message } : null;
  const code = error === null ? {} : { error: error.code };
  return {
    next: { ...deployment, state: to, stateAt: now, decidedAt: now, overdue: null, error },
    audit: [
      { at: now, by: byDevice(device), kind: 'deployment-moved', rollout, deployment: id, device, from, to, ...code },
    ],
  };
};

/**
 * Failures that a person acknowledges, device by device: from then on exactly these do not count, as long as they are
 * failures.
 */
import type { Id } from '#shared/ids.ts';
import { type DeploymentRecord, outcomeOf } from '../deployment/deployment.ts';
import type { Acknowledged, RolloutState } from './rollout.ts';

/** The failures among these deployments, named. */
export const failuresAmong = (deployments: readonly DeploymentRecord[]): Acknowledged[] => {
  const failures = new Map<string, Acknowledged & { deployments: Id[] }>();
  for (const deployment of deployments) {
    if (outcomeOf(deployment) !== 'failed') continue;
    const { id, cohort, compatible, wave } = deployment;
    const key = JSON.stringify([wave, cohort, compatible]);
    const known = failures.get(key);
    if (known === undefined)
      failures.set(key, { cohort, compatible, wave, failed: 1, neverHeard: 0, deployments: [id] });
    else {
      known.deployments.push(id);
      known.failed += 1;
    }
  }
  return [...failures.values()];
};

/**
 * Carried on into the rollout's next state. Absent rather than empty: most rollouts never have anything to acknowledge.
 */
export const acknowledgedIn = (progress: RolloutState): { acknowledged?: Acknowledged[] } =>
  'acknowledged' in progress && progress.acknowledged !== undefined && progress.acknowledged.length > 0
    ? { acknowledged: progress.acknowledged }
    : {};

/** All that are acknowledged by name. */
export const namedIn = (acknowledged: readonly Acknowledged[]): Id[] =>
  acknowledged.flatMap(({ deployments }) => deployments ?? []);

/**
 * What is left of the acknowledged failures, by where their deployments are now: one that turned out well after all
 * excuses no other. The very same array when all are still failures. Those acknowledged by number alone are left as
 * they are.
 */
export const stillAcknowledged = (
  acknowledged: Acknowledged[],
  deployments: readonly DeploymentRecord[],
): Acknowledged[] => {
  const failing = new Set(deployments.filter((one) => outcomeOf(one) === 'failed').map(({ id }) => id));
  const left = acknowledged.flatMap((entry) => {
    if (entry.deployments === undefined || entry.deployments.every((id) => failing.has(id))) return [entry];
    const names = entry.deployments.filter((id) => failing.has(id));
    return names.length + entry.neverHeard === 0 ? [] : [{ ...entry, failed: names.length, deployments: names }];
  });
  return left.length === acknowledged.length && left.every((entry, index) => entry === acknowledged[index])
    ? acknowledged
    : left;
};

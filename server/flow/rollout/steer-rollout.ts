/** A person pauses, resumes or aborts a rollout. */

import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Id } from '#shared/ids.ts';
import type { Result } from '#shared/problems.ts';
import { activeOperators } from '../release/promote-release.ts';
import { applyEvent, type RunDeps, runRollout } from './run-rollout.ts';

/**
 * Refusals: `not-found`, `conflict` (not possible in its state), `invalid-request` (resuming after a halt needs a
 * note).
 */
export const steerRollout = async (
  deps: RunDeps,
  input: { rollout: Id; verb: 'pause' | 'resume' | 'abort' | 'activate'; note: string; by: string },
): Promise<Result<RolloutRecord>> => {
  const steered = await applyEvent(deps, input.rollout, { kind: input.verb, by: input.by, note: input.note });
  // What is due now is done now, so that the answer shows where it leads.
  return steered.ok ? runRollout(deps, input.rollout) : steered;
};

/**
 * One person approves a rollout that waits for it. Refusals: `not-found`, `conflict` (it does not wait), `forbidden`
 * (its author).
 */
export const approveRollout = async (
  deps: RunDeps,
  input: { rollout: Id; note: string; by: string },
): Promise<Result<RolloutRecord>> => {
  const { by, note } = input;
  const active = await activeOperators(deps.store);
  const approved = await applyEvent(deps, input.rollout, { kind: 'approve', by, note, active });
  return approved.ok ? runRollout(deps, input.rollout) : approved;
};

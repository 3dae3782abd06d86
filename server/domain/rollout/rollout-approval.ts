/**
 * What one approval does to a rollout that waits for some. Revoked operators are looked at again with each approval.
 */
import { refuse } from '#shared/problems.ts';
import { countingApprovals } from '../approvals.ts';
import type { Rollout } from './rollout.ts';
import type { RolloutEvent, RolloutFacts, RolloutStep } from './rollout-events.ts';

export const approve = (
  rollout: Rollout,
  { by, note, active }: Extract<RolloutEvent, { kind: 'approve' }>,
  { now }: RolloutFacts,
  stay: RolloutStep,
): RolloutStep => {
  const { progress } = rollout;
  if (progress.state !== 'awaiting-approval') return stay;
  if (by === rollout.createdBy) {
    const detail = `${by} planned rollout ${rollout.id}: someone else must approve it.`;
    return { ...stay, refused: refuse('forbidden', detail) };
  }
  if (!active.includes(by)) return { ...stay, refused: refuse('forbidden', `${by} may not approve rollouts.`) };
  const { needed, startAt } = progress;
  const approvedBy = countingApprovals([...progress.approvedBy, by], [rollout.createdBy], active);
  const isEnough = approvedBy.length >= needed;
  // Once more the same person: nothing new, unless someone else was revoked meanwhile.
  if (!isEnough && progress.approvedBy.includes(by) && approvedBy.length === progress.approvedBy.length) return stay;
  return {
    ...stay,
    next: {
      ...rollout,
      progress: isEnough
        ? { state: 'scheduled', startAt: Math.max(startAt, now) }
        : { state: 'awaiting-approval', needed, approvedBy, startAt },
    },
    audit: [{ at: now, by, kind: 'rollout-approved', rollout: rollout.id, approvedBy, needed, note }],
    nextTickAt: isEnough ? Math.max(startAt, now) : stay.nextTickAt,
  };
};

/** Devices that go back to what they ran before. */
import type { Id, Millis } from '#shared/ids.ts';
import type { StayReason } from '#shared/recall.ts';
import type { DeploymentRecord } from '../domain/deployment/deployment.ts';
import type { Recallable } from '../domain/rollout/recall.ts';
import type { AuditLine } from './audit.ts';
import type { RolloutRecord } from './rollouts.ts';

export type RecallStore = {
  /**
   * Devices that run the release of this rollout because of it, or ran it before (`skipped`), each with what it ran
   * then; in the order of planning, at most `limit`. Not those that committed another rollout later, that are on their
   * way back in a rollout that `recalls` this one, or for which `saveRecall` has decided something since `since`.
   */
  listRecallable(rollout: Id, since: Millis, limit: number): Promise<Recallable[]>;
  /** `conflict` where `recalled`, or a rollout that is joined, was saved by someone else since it was read. */
  saveRecall(save: {
    recalled: RolloutRecord;
    created: { rollout: RolloutRecord; deployments: DeploymentRecord[] }[];
    joined: { rollout: RolloutRecord; deployments: DeploymentRecord[] }[];
    stays: { device: Id; reason: StayReason }[];
    audit: AuditLine[];
    now: Millis;
  }): Promise<'saved' | 'conflict'>;
  /** Rollouts that take devices of this one back, oldest first. */
  listRecalls(rollout: Id): Promise<{ id: Id; product: string; version: string; devices: number }[]>;
  /** Who cannot go back, by reason, the most first; the first 20 devices of each by name. */
  listStays(rollout: Id, since: Millis): Promise<{ reason: StayReason; devices: number; named: Id[] }[]>;
};

/** What is to be kept of a step: a decision with its inputs, and the digest by which the audit log names it. */

import { decisionOf, isWorthRecording, recordOf } from '#server/domain/rollout/decision.ts';
import type { Rollout } from '#server/domain/rollout/rollout.ts';
import type { RolloutEvent, RolloutFacts, RolloutStep } from '#server/domain/rollout/rollout-events.ts';
import type { DecisionToKeep } from '#server/store/decisions.ts';
import type { Sha256 } from '#shared/ids.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';

/**
 * `mark` goes into every line that the decision writes to the audit log. Both are empty where nothing is to be kept.
 */
export type Decided = { mark: { decision?: Sha256 }; kept: { decision?: DecisionToKeep } };

/** `previous` was read with the rollout's revision, which another decision in between moves. */
export const decide = (
  previous: Sha256 | undefined,
  rollout: Rollout,
  event: RolloutEvent,
  facts: RolloutFacts,
  step: RolloutStep,
): Decided => {
  const worth = isWorthRecording(rollout.progress, step);
  if (worth === 'no') return { mark: {}, kept: {} };
  const record = recordOf(decisionOf(previous ?? null, rollout, event, facts, step));
  const sha256 = sha256Hex(record);
  return {
    mark: { decision: sha256 },
    kept: { decision: { record, sha256, at: facts.now, onlyIfOffered: worth === 'if-offered' } },
  };
};

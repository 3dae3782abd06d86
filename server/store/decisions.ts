/** What rollouts decided, and from what. */
import type { Id, Millis, Sha256 } from '#shared/ids.ts';

/**
 * A decision as domain/decision.ts records it, and its digest. `onlyIfOffered`: kept when someone was offered something
 * or skipped, and the first time in a row that no one was free; the same answer every second is no news.
 */
export type DecisionToKeep = { record: string; sha256: Sha256; at: Millis; onlyIfOffered: boolean };

/**
 * `n` counts from 1 in each rollout. `record`: null where what is stored cannot be read any more. `blockers`: who had
 * the devices, where fewer were free than it allowed. Its lines in the audit log are from `auditFrom` up to, but
 * without, `auditTo`.
 */
export type KeptDecision = {
  n: number;
  at: Millis;
  sha256: Sha256;
  record: string | null;
  offered: number;
  skipped: number;
  withdrawn: number;
  blockers: { rollout: Id; devices: number }[];
  auditFrom: number;
  auditTo: number;
  /** The line of the audit log that says that those before it were pruned. */
  pruned: number | null;
};

export type DecisionStore = {
  /** What this rollout decided, newest first; `before` is the number of a decision. */
  listDecisions(rollout: Id, page: { before?: number | undefined; limit: number }): Promise<KeptDecision[]>;
  /**
   * Of at most `limit` rollouts that are over, at rest, and have decided nothing since `before`: all but the newest
   * decision go, and the audit log says which. Not where one is missing or the newest cannot be read: what was done to
   * them stays to be seen. How many went.
   */
  pruneDecisions(before: Millis, now: Millis, limit: number): Promise<number>;
};

/** Who counts when approvals are needed: never the authors, never a revoked operator, each person once. */

/**
 * The names that count, in the order in which they first approved. `active`: operators who may approve at this moment.
 */
export const countingApprovals = (
  approvedBy: readonly string[],
  authors: readonly string[],
  active: readonly string[],
): string[] => [...new Set(approvedBy)].filter((name) => active.includes(name) && !authors.includes(name));

/** `0 of 2 given`, `1 of 2 given (bob)`. */
export const approvalsWords = (counting: readonly string[], needed: number): string =>
  `${counting.length} of ${needed} given${counting.length === 0 ? '' : ` (${counting.join(', ')})`}`;

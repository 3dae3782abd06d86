/** Why devices of a rollout have to wait for other rollouts. */
import type { Id } from '#shared/ids.ts';

/** Planned devices of a rollout that another one has, or comes first for. */
export type Blocker = { rollout: Id; devices: number };

/** A sentence for people; empty when it waits for no one. */
export const blockedWords = (blockers: readonly Blocker[]): string =>
  blockers.length === 0
    ? ''
    : ` It waits for devices that other rollouts have or come first for: ${blockers
        .slice(0, 3)
        .map(({ rollout, devices }) => `${devices} with ${rollout}`)
        .join(', ')}${blockers.length > 3 ? ', ...' : ''}.`;

/** What time and a person's decision about time do to a rollout: its end, and the activation of what is installed. */

import type { Millis } from '#shared/ids.ts';
import { refuse } from '#shared/problems.ts';
import { BY_SERVER } from '../audit.ts';
import type { Rollout, RolloutPlan, RolloutState } from './rollout.ts';
import type { RolloutEvent, RolloutFacts, RolloutStep } from './rollout-events.ts';
import { complete } from './rollout-run.ts';
import { tallyOf } from './tally.ts';

/** A halted one waits for a person, whatever the time; its offers are withdrawn already. */
const ENDS_BY_ITSELF: ReadonlySet<RolloutState['state']> = new Set([
  'awaiting-approval',
  'scheduled',
  'running',
  'paused',
]);

/** When its time is over; undefined where that changes nothing. */
export const endsAt = ({ endBy, progress }: Rollout): Millis | undefined =>
  ENDS_BY_ITSELF.has(progress.state) ? endBy : undefined;

/** Its time is over: what was not activated is taken back, trials finish. Undefined as long as it is not. */
export const endWhenOver = (rollout: Rollout, { now, bins }: RolloutFacts): RolloutStep | undefined => {
  const { progress } = rollout;
  const endAt = endsAt(rollout);
  if (endAt === undefined || now < endAt) return undefined;
  const tally = tallyOf(bins);
  if (tally.planned + tally.unaccepted + tally.undecided + tally.installed === 0) return complete(rollout, now);
  const note =
    progress.state === 'awaiting-approval' ? 'its time was over before it was approved' : 'its time was over';
  return {
    next: { ...rollout, progress: { state: 'aborted', at: now, by: BY_SERVER, note } },
    offers: [],
    withdraw: { reason: `rollout ended: ${note}`, planned: true },
    replan: false,
    audit: [{ at: now, by: BY_SERVER, kind: 'rollout-aborted', rollout: rollout.id, note }],
    nextTickAt: now,
    refused: null,
  };
};

/** It is open, and devices that come to match its cohorts join it. A paused one takes no one new. */
export const follows = ({ cohorts }: Pick<RolloutPlan, 'cohorts'>, { state }: Pick<RolloutState, 'state'>): boolean =>
  (state === 'scheduled' || state === 'running') && cohorts.some(({ follow }) => follow === true);

/** Everyone who has installed it may activate. Only once, and only where activation is separate. */
export const activateAll = (
  rollout: Rollout,
  { by, note }: Extract<RolloutEvent, { kind: 'activate' }>,
  { now, bins }: RolloutFacts,
  stay: RolloutStep,
): RolloutStep => {
  const { activation } = rollout.policy;
  if (activation === 'at-once')
    return {
      ...stay,
      refused: refuse('conflict', 'Its devices activate the release as soon as they have installed it.'),
    };
  if (rollout.activatedAt !== undefined || (typeof activation === 'number' && activation <= now))
    return { ...stay, refused: refuse('conflict', 'Its devices were told to activate the release already.') };
  const { installed } = tallyOf(bins);
  return {
    ...stay,
    next: { ...rollout, activatedAt: now },
    activate: true,
    audit: [{ at: now, by, kind: 'rollout-activated', rollout: rollout.id, installed, note }],
    nextTickAt: now,
  };
};

/** What must hold whenever a rollout's next state and its offers are saved. */

import type { DeploymentRecord, OutcomeBin } from '#server/domain/deployment/deployment.ts';
import { binMsOf } from '#server/domain/deployment/deployment.ts';
import type { Channel } from '#server/domain/release/channel.ts';
import { ruleOn } from '#server/domain/rollout/halting.ts';
import { TRANSITIONS } from '#server/domain/rollout/rollout-step.ts';
import { groupName, setAside, tallyOf } from '#server/domain/rollout/tally.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import type { Id } from '#shared/ids.ts';
import { isOpen, windowsOf } from './open-windows.ts';
import type { Event, Seen } from './rules-rows.ts';
import type { World } from './world.ts';

export type Save = Parameters<Store['saveRollout']>[0];
/** A recount of outcomes, and the revision of the rollout that it was made with. */
export type BinsRead = { rollout: Id; revision: number; bins: OutcomeBin[] };

/** Where in the rollout a device may still be told to stay. */
const BEFORE_TRIAL: ReadonlySet<string> = new Set(['offered', 'fetching', 'installing', 'ready']);
const KINDS_OF_STATE: Record<string, readonly string[]> = {
  running: ['rollout-started', 'rollout-resumed'],
  paused: ['rollout-paused'],
  halted: ['rollout-halted'],
  aborted: ['rollout-aborted'],
  completed: ['rollout-completed'],
};

/** A rollout moves only as its table says, and the audit log says so. */
export const checkMove = (world: World, before: RolloutRecord, save: Save, events: Event[]): void => {
  const { id } = save.rollout.plan;
  const [from, to] = [before.progress.state, save.rollout.progress.state];
  if (from === to) return;
  world.tell(`rollout ${id}: ${from} -> ${to}`);
  const allowed = Object.values(TRANSITIONS[from]).some((states) => states.includes(to));
  if (!allowed) world.violate(`rollout ${id} went from ${from} to ${to}`);
  const kinds = KINDS_OF_STATE[to];
  if (!events.some((event) => event.rollout === id && (kinds === undefined || kinds.includes(event.kind))))
    world.violate(`rollout ${id} went from ${from} to ${to} without a line in the audit log`);
};

/** Halt and abort withdraw every offer that is not activated, in the same transaction. */
export const checkWithdrawn = (world: World, save: Save, seen: Iterable<Seen>): void => {
  const { plan, progress } = save.rollout;
  for (const { row } of seen)
    if (row.rollout === plan.id && BEFORE_TRIAL.has(row.state))
      return world.violate(`rollout ${plan.id} is ${progress.state}, and ${row.id} still has its offer`);
};

/** A rollout starts with as many approvals as its channel asks for, of others than its author. */
export const checkApproved = (
  world: World,
  channels: readonly Channel[],
  plan: RolloutRecord['plan'],
  log: Event[],
): void => {
  // Going back is to be quick; a recall by name of a release is planned like any other.
  if (plan.recalls !== undefined) return;
  const needed = channels.find(({ name }) => name === plan.channel)?.rolloutApprovals ?? 0;
  const approvals = log.filter((event) => event.kind === 'rollout-approved' && event.rollout === plan.id);
  const others = new Set(approvals.map(({ by }) => by).filter((by) => by !== plan.createdBy));
  if (others.size < needed)
    world.violate(`rollout ${plan.id} starts with ${others.size} of ${needed} approvals by others than its author`);
};

/** Nothing is offered outside of maintenance windows. */
export const checkOfferedInWindow = (
  world: World,
  { rollout: { plan }, now }: Save,
  offered: DeploymentRecord[],
  zoneOf: (device: Id) => string,
): void => {
  for (const row of offered)
    if (!isOpen(windowsOf(plan, row.cohort), zoneOf(row.device), now))
      world.violate(`rollout ${plan.id} offers to ${row.device} outside of its maintenance window`);
};

/** What is offered is within what the judge, and the limit of devices at risk, allow by an independent recount. */
export const checkAllowance = (world: World, save: Save, offered: DeploymentRecord[], reads: BinsRead[]): void => {
  const { plan, progress, revision } = save.rollout;
  const acknowledged = 'acknowledged' in progress ? (progress.acknowledged ?? []) : [];
  const basis = reads.filter((read) => read.rollout === plan.id && read.revision === revision);
  const fits = basis.some(({ bins }) => {
    const counted = setAside(bins, acknowledged);
    const ruling = ruleOn(plan.policy, counted, save.now);
    if (ruling.kind === 'halt') return false;
    const total = tallyOf(counted);
    if (total.unaccepted + total.undecided + offered.length > plan.policy.limits.atRiskMax) return false;
    return ruling.grants.every(
      ({ group, atMost }) =>
        offered.filter((row) => groupName(row) === groupName(group)).length <=
        Math.max(0, atMost - tallyOf(group.bins).unaccepted),
    );
  });
  if (!fits)
    world.violate(
      `rollout ${plan.id} offers to ${offered.length} devices, more than its judge allows (bins of ${binMsOf(plan.policy)} ms, ${basis.length} readings)`,
    );
};

/**
 * At no moment are more devices between offer and outcome than the policy allows, but for those that came back by
 * themselves.
 */
export const checkAtRisk = (world: World, { plan }: RolloutRecord, seen: Iterable<Seen>): void => {
  let atRisk = 0;
  for (const { row, returned } of seen)
    if (row.rollout === plan.id && !returned && (BEFORE_TRIAL.has(row.state) || row.state === 'trial'))
      if (row.state !== 'ready' || row.heldUntil === null) atRisk += 1;
  if (atRisk > plan.policy.limits.atRiskMax)
    world.violate(`rollout ${plan.id} has ${atRisk} devices at risk, ${plan.policy.limits.atRiskMax} are allowed`);
};

/** Time, for one rollout: who is in a window now, what devices are told about it, and who may stop waiting. */

import { readyWithinMs } from '#server/domain/deployment/deadline.ts';
import { HELD_FOR_COMMAND } from '#server/domain/deployment/deployment.ts';
import type { WaitUntil } from '#server/domain/deployment/deployment-step.ts';
import type { Blocker } from '#server/domain/rollout/blockers.ts';
import type { RolloutPlan } from '#server/domain/rollout/rollout.ts';
import type { WindowFacts } from '#server/domain/rollout/rollout-events.ts';
import type { OfferRequest, ShutWindow } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import type { Id } from '#shared/ids.ts';
import {
  firstOpenAt,
  type MaintenanceWindow,
  mayActivateAt,
  mayInstallAt,
  type OpenSpan,
  TIME_ZONE_ATTRIBUTE,
} from '#shared/windows.ts';
import { isTimeZone, spansAt } from './calendar.ts';

const RENEWED_AT_ONCE = 1_000;

const windowsOf = ({ cohorts, policy }: RolloutPlan, cohort: Id): MaintenanceWindow[] =>
  cohorts.find((one) => one.cohort === cohort)?.windows ?? policy.windows;
const hasWindows = (plan: RolloutPlan): boolean =>
  plan.cohorts.some(({ cohort }) => windowsOf(plan, cohort).length > 0);

/** As long as it is not yet: null for "when told", undefined for "at once". */
export const activateAtOf = ({ policy, activatedAt }: RolloutPlan, now: number): number | null | undefined => {
  if (activatedAt !== undefined || policy.activation === 'at-once') return undefined;
  if (policy.activation === 'on-command') return null;
  return policy.activation > now ? policy.activation : undefined;
};

/**
 * Whether its devices may activate without an answer when they cannot reach the server:
 * docs/decisions/0008-activation-without-the-server.md.
 */
export const confirmOf = ({ policy }: Pick<RolloutPlan, 'policy'>): { confirm?: 'when-reachable' } => {
  const timed = typeof policy.activation === 'number';
  return (policy.confirm ?? (timed ? 'when-reachable' : 'required')) === 'required'
    ? {}
    : { confirm: 'when-reachable' };
};

type Zones = NonNullable<OfferRequest['zones']>;
/** By cohort, where it has windows: the zones of its planned devices, and whether any of them may be offered to now. */
export type RolloutTime = { facts: WindowFacts[]; open: Map<Id, Zones> };

export const timeOf = async (
  store: Pick<Store, 'listTimeZones'>,
  plan: RolloutPlan,
  now: number,
): Promise<RolloutTime | undefined> => {
  if (!hasWindows(plan)) return undefined;
  const byCohort = new Map<Id, Zones>();
  for (const { cohort, zone } of await store.listTimeZones(plan.id)) {
    const windows = spansAt(windowsOf(plan, cohort), zone, now);
    if (windows !== undefined) byCohort.set(cohort, [...(byCohort.get(cohort) ?? []), { zone, windows }]);
  }
  const isOpen = (windows: OpenSpan[]): boolean => firstOpenAt(windows, now) === now;
  const facts = [...byCohort].map(([cohort, zones]): WindowFacts => {
    const opens = zones.map(({ windows }) => firstOpenAt(windows, now) ?? Number.POSITIVE_INFINITY);
    const opensAt = Math.min(...opens);
    return { cohort, open: opensAt === now, opensAt: Number.isFinite(opensAt) ? opensAt : null };
  });
  const open = [...byCohort].map(([cohort, zones]): [Id, Zones] => [
    cohort,
    zones.filter(({ windows }) => isOpen(windows)),
  ]);
  return { facts, open: new Map(open) };
};

/**
 * Where the rollouts that come before this one are outside of their windows now. Until these open, a lower rollout may
 * have their devices: a hotfix that may only act at night must not stop everything else by day.
 */
export const shutAbove = async (
  store: Pick<Store, 'listRunningAbove' | 'listTimeZones'>,
  rollout: Id,
  now: number,
): Promise<ShutWindow[]> => {
  const shut: ShutWindow[] = [];
  for (const plan of await store.listRunningAbove(rollout)) {
    if (!hasWindows(plan)) continue;
    for (const { cohort, zone } of await store.listTimeZones(plan.id)) {
      if (firstOpenAt(spansAt(windowsOf(plan, cohort), zone, now), now) !== now)
        shut.push({ rollout: plan.id, cohort, zone });
    }
  }
  return shut;
};

export type BlockerDeps = {
  store: Pick<Store, 'listBlockers' | 'listRunningAbove' | 'listTimeZones'>;
  now: () => number;
};
/** The rollouts that keep planned devices of this one waiting at this moment. */
export const blockersNow = async ({ store, now }: BlockerDeps, rollout: Id): Promise<Blocker[]> =>
  store.listBlockers(rollout, await shutAbove(store, rollout, now()));

const ZONES_NAMED_MAX = 5;

/**
 * Devices that report a zone that is not known here have their windows in the policy's: in a sentence for each cohort.
 */
export const unknownZones = async (store: Pick<Store, 'listTimeZones'>, plan: RolloutPlan): Promise<string[]> => {
  const ofDevices = plan.cohorts.filter(({ cohort }) => windowsOf(plan, cohort).some(({ ofDevice }) => ofDevice));
  if (ofDevices.length === 0) return [];
  const reported = await store.listTimeZones(plan.id, 'all');
  return ofDevices.flatMap(({ cohort }) => {
    const unknown = reported
      .filter((one) => one.cohort === cohort && one.zone !== '' && !isTimeZone(one.zone))
      .map(({ zone }) => JSON.stringify(zone));
    if (unknown.length === 0) return [];
    const more = unknown.length > ZONES_NAMED_MAX ? ', ...' : '';
    const own = [...new Set(windowsOf(plan, cohort).map(({ timeZone }) => timeZone))].join(', ');
    return `${cohort}: some devices report a time zone that is not known here (${unknown.slice(0, ZONES_NAMED_MAX).join(', ')}${more}); theirs is ${own}, as the policy says`;
  });
};

/** Until when a device of the rollout is held back, by what it was or would be told now. */
export const waitUntilOf = (
  plan: RolloutPlan,
  cohort: Id,
  attributes: Record<string, string>,
  now: number,
): WaitUntil => {
  const windows = spansAt(windowsOf(plan, cohort), attributes[TIME_ZONE_ATTRIBUTE], now);
  const activateAt = activateAtOf(plan, now);
  const timing = { windows, activateAt };
  const later = (at: number | undefined): number | null => (at === undefined ? HELD_FOR_COMMAND : at > now ? at : null);
  return { install: later(mayInstallAt(timing, now)), activate: later(mayActivateAt(timing, now)) };
};

/**
 * Ends waits that are over, and tells devices of more windows before they know of none, or when they are in another
 * time zone.
 */
export const keepTime = async (
  deps: { store: Pick<Store, 'getRollout' | 'endWaits' | 'listOutOfWindows' | 'renewWindows'>; now: () => number },
  rollout: Id,
): Promise<void> => {
  const plan = (await deps.store.getRollout(rollout))?.plan;
  if (plan === undefined) return;
  const now = deps.now();
  await deps.store.endWaits(rollout, now, readyWithinMs(plan.policy.deadlines));
  if (!hasWindows(plan)) return;
  const stale = await deps.store.listOutOfWindows(rollout, now, RENEWED_AT_ONCE);
  const renewals = stale.flatMap(({ deployment, cohort, zone }) => {
    const windows = spansAt(windowsOf(plan, cohort), zone, now);
    return windows === undefined ? [] : [{ deployment, windows, zone }];
  });
  if (renewals.length > 0) await deps.store.renewWindows(renewals, now);
};

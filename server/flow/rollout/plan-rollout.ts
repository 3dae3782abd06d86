/** Plans a rollout: resolves its cohorts, freezes them, cuts the waves, and records all of it at once. */

import { auditLine } from '#server/domain/audit.ts';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { type Channel, findChannel } from '#server/domain/release/channel.ts';
import { whyUnfit } from '#server/domain/rollout/eligibility.ts';
import { type Placement, planWaves, type WaveCohort, waveWithoutGrowth } from '#server/domain/rollout/waves.ts';
import { plural } from '#server/domain/words.ts';
import type { AuditLine } from '#server/store/audit.ts';
import type { ReleaseRecord } from '#server/store/catalogue.ts';
import type { CohortRecord } from '#server/store/devices.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import { Id, releaseRef } from '#shared/ids.ts';
import type { CohortPlan, Policy } from '#shared/policy.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { noChannel } from '../release/promote-release.ts';
import { checkWindows } from '../time/calendar.ts';
import { allDevices, membershipOf } from './resolve-cohort.ts';

export type PlanInput = {
  product: Id;
  version: string;
  channel: Id;
  cohorts: CohortPlan[];
  policy: Policy;
  /** Not before this time; at once when it is absent or past. */
  startAt?: number | undefined;
  /** It is over by then, done or not. */
  endBy?: number | undefined;
  by: string;
};

type PlanDeps = {
  store: Pick<Store, 'getRelease' | 'getCohort' | 'listDevices'>;
  channels: readonly Channel[];
  now: () => number;
  /** Short, and never given before. */
  newId: () => Id;
};

/**
 * Devices that are not let in, whose compatible has no bundle in the release, or that have committed a higher security
 * counter, are left out and counted. Refusals: `not-found` (release, cohort), `conflict` (not staged in the channel, no
 * one to offer to), `invalid-request`.
 */
export const planRollout = async (
  deps: PlanDeps & { store: Pick<Store, 'createRollout'> },
  input: PlanInput,
): Promise<Result<RolloutRecord>> => {
  const planned = await preparePlan(deps, input);
  if (!planned.ok) return planned;
  const { rollout, deployments, audit } = planned.value;
  await deps.store.createRollout(rollout, deployments, [audit]);
  return accept(rollout);
};

/** A rollout as it is to be recorded. */
export type Planned = { rollout: RolloutRecord; deployments: DeploymentRecord[]; audit: AuditLine };

/** The same, before anything is recorded. */
export const preparePlan = async (deps: PlanDeps, input: PlanInput): Promise<Result<Planned>> => {
  const place = findChannel(deps.channels, input.channel);
  // Without its configuration no one knows how many must approve.
  if (place === undefined) return noChannel(deps.channels, input.channel);
  const release = await findRelease(deps, input);
  if (!release.ok) return release;
  const times = checkTimes(input, deps.now());
  if (!times.ok) return times;
  const cohorts = await findCohorts(deps, input.cohorts);
  if (!cohorts.ok) return cohorts;
  const { members, excluded, belowFloor } = await freeze(deps, input.cohorts, cohorts.value, release.value);

  const id = deps.newId();
  const { placements, waveSizes } = planWaves(members, id);
  if (placements.length === 0) {
    const why =
      excluded === 0 ? 'no device is in these cohorts' : `all ${excluded} devices in these cohorts are left out`;
    const name = releaseRef(input.product, input.version);
    if (belowFloor > 0 && belowFloor === excluded)
      return refuse(
        'conflict',
        `the security floor forbids it: all ${belowFloor} devices in these cohorts have committed a higher security counter than that of ${name}`,
      );
    return refuse('conflict', `${why}: none is let in and has a bundle of ${name} that its security floor allows`);
  }
  const at = deps.now();
  const startAt = Math.max(at, input.startAt ?? at);
  const needed = place.channel.rolloutApprovals;
  const { product, version, channel, policy, by } = input;
  const floored = belowFloor === 0 ? {} : { belowFloor };
  const rollout: RolloutRecord = {
    plan: {
      id,
      product,
      version,
      channel,
      cohorts: input.cohorts,
      policy,
      waveSizes,
      excluded,
      ...floored,
      createdAt: at,
      createdBy: by,
      ...(input.endBy === undefined ? {} : { endBy: input.endBy }),
    },
    progress:
      needed === 0 ? { state: 'scheduled', startAt } : { state: 'awaiting-approval', needed, approvedBy: [], startAt },
    // Until it is approved only its end may come.
    nextTickAt: needed === 0 ? startAt : (input.endBy ?? null),
    revision: 1,
  };
  const about = { rollout: id, product, version, devices: placements.length, waveSizes, excluded, ...floored };
  return accept({
    rollout,
    deployments: placements.map((placement, index) => plannedDeployment(id, placement, index, at)),
    audit: auditLine({ at, by, kind: 'rollout-planned', ...about }),
  });
};

const checkTimes = ({ policy, cohorts, startAt, endBy }: PlanInput, now: number): Result<void> => {
  if (endBy !== undefined && endBy <= Math.max(now, startAt ?? now))
    return refuse('invalid-request', 'a rollout must end after it starts');
  return checkWindows([...policy.windows, ...cohorts.flatMap(({ windows }) => windows ?? [])], now);
};

const findRelease = async (deps: PlanDeps, input: PlanInput): Promise<Result<ReleaseRecord>> => {
  const name = releaseRef(input.product, input.version);
  const release = await deps.store.getRelease(input.product, input.version);
  if (release === undefined) return refuse('not-found', `there is no release ${name}`);
  const { progress } = release;
  if (progress.state === 'withdrawn') return refuse('conflict', `${name} was withdrawn: ${progress.reason}`);
  if (progress.state !== 'staged' || !progress.channels.includes(input.channel)) {
    return refuse('conflict', `${name} is not staged in ${input.channel}; stage it there first`);
  }
  return accept(release);
};

const findCohorts = async (deps: PlanDeps, plans: CohortPlan[]): Promise<Result<CohortRecord[]>> => {
  if (new Set(plans.map(({ cohort }) => cohort)).size !== plans.length) {
    return refuse('invalid-request', 'each cohort may stand in a rollout once; give it several waves instead');
  }
  const cohorts: CohortRecord[] = [];
  for (const plan of plans) {
    const size = waveWithoutGrowth(plan.waves);
    if (size !== undefined) {
      const words = 'count' in size ? plural(size.count, 'device') : `${size.percent} %`;
      const detail = `waves are cumulative, each larger than the one before: the wave of ${plan.cohort} that ends at ${words} would be empty`;
      return refuse('invalid-request', detail);
    }
    const cohort = await deps.store.getCohort(plan.cohort);
    if (cohort === undefined) return refuse('not-found', `there is no cohort ${plan.cohort}`);
    cohorts.push(cohort);
  }
  return accept(cohorts);
};

/** One walk over the fleet, for all cohorts: who is in which, and who cannot take part. */
const freeze = async (
  deps: PlanDeps,
  plans: CohortPlan[],
  cohorts: CohortRecord[],
  release: ReleaseRecord,
): Promise<{ members: WaveCohort[]; excluded: number; belowFloor: number }> => {
  const memberships = cohorts.map(membershipOf);
  const members: WaveCohort[] = plans.map((plan) => ({ plan, devices: [] }));
  const unknown = new Set(cohorts.flatMap(({ members: of }) => (of.kind === 'list' ? of.devices : [])));
  let excluded = 0;
  let belowFloor = 0;
  for await (const device of allDevices(deps.store)) {
    unknown.delete(device.id);
    const within = members.filter((_, index) => memberships[index]?.(device));
    if (within.length === 0) continue;
    const unfit = whyUnfit(device, release.bundles);
    if (unfit !== null) {
      excluded += 1;
      if (unfit === 'below-floor') belowFloor += 1;
      continue;
    }
    for (const { devices } of within) devices.push({ id: device.id, compatible: device.compatible });
  }
  return { members, excluded: excluded + unknown.size, belowFloor };
};

/** `index` counts the deployments of the rollout: ids are never used twice. */
export const plannedDeployment = (rollout: Id, placement: Placement, index: number, at: number): DeploymentRecord => ({
  id: Id.parse(`${rollout}-${index + 1}`),
  rollout,
  device: placement.device,
  cohort: placement.cohort,
  compatible: placement.compatible,
  wave: placement.wave,
  position: placement.position,
  state: 'planned',
  offeredAt: null,
  acceptedAt: null,
  decidedAt: null,
  stateAt: at,
  deadlineAt: null,
  overdue: null,
  heldUntil: null,
  error: null,
  revision: 1,
});

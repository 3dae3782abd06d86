/**
 * Devices that come to match the cohorts of a rollout while it is open join its last wave, where the cohorts are
 * followed.
 */

import { auditLine, BY_SERVER } from '#server/domain/audit.ts';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { whyUnfit } from '#server/domain/rollout/eligibility.ts';
import { follows } from '#server/domain/rollout/rollout-time.ts';
import { queueHash } from '#server/domain/rollout/waves.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import { Id } from '#shared/ids.ts';
import { plannedDeployment } from './plan-rollout.ts';
import { allDevices, membershipOf } from './resolve-cohort.ts';

/** The whole fleet is looked at: so often for one rollout, and no more often. */
const LOOK_MS = 30_000;
/** One line of the audit log names them all. */
const JOINED_AT_ONCE = 500;

type Deps = {
  store: Pick<
    Store,
    'getRollout' | 'getRelease' | 'getCohort' | 'listDevices' | 'addDeployments' | 'listOutside' | 'getMeta' | 'setMeta'
  >;
  now: () => number;
};

/**
 * How many joined. In the order of their hash, as when it was planned; those that are too many join at the next look.
 */
export const followCohorts = async (deps: Deps, rollout: Id): Promise<number> => {
  const record = await deps.store.getRollout(rollout);
  if (record === undefined || !follows(record.plan, record.progress) || !(await isTimeToLook(deps, rollout))) return 0;
  const found = await newMembers(deps, record);
  if (found.length === 0) return 0;
  const { plan } = record;
  const wave = plan.waveSizes.length - 1;
  const size = plan.waveSizes[wave]!;
  const total = plan.waveSizes.reduce((sum, devices) => sum + devices, 0);
  const at = deps.now();
  const joined = found
    .sort((a, b) => queueHash(plan.id, a.device) - queueHash(plan.id, b.device) || (a.device < b.device ? -1 : 1))
    .slice(0, JOINED_AT_ONCE)
    .map(
      (one, index): DeploymentRecord =>
        plannedDeployment(plan.id, { ...one, wave, position: size + index }, total + index, at),
    );
  const devices = joined.map(({ device }) => device);
  const audit = auditLine({ at, by: BY_SERVER, kind: 'rollout-joined', rollout, wave, devices });
  return (await deps.store.addDeployments(record, joined, [audit], at)) === 'added' ? joined.length : 0;
};

const isTimeToLook = async ({ store, now }: Deps, rollout: Id): Promise<boolean> => {
  const key = `followed-${rollout}`;
  const last = Number((await store.getMeta(key)) ?? Number.NEGATIVE_INFINITY);
  if (now() - last < LOOK_MS && now() >= last) return false;
  await store.setMeta(key, String(now()));
  return true;
};

type Member = { device: Id; cohort: Id; compatible: Id };
const newMembers = async (deps: Deps, { plan }: RolloutRecord): Promise<Member[]> => {
  const release = await deps.store.getRelease(plan.product, plan.version);
  const followed: { cohort: Id; isMember: ReturnType<typeof membershipOf> }[] = [];
  for (const { cohort, follow } of plan.cohorts) {
    const record = follow === true ? await deps.store.getCohort(cohort) : undefined;
    if (record !== undefined) followed.push({ cohort, isMember: membershipOf(record) });
  }
  const members = new Map<Id, Member>();
  for await (const device of allDevices(deps.store, 'accepted')) {
    const cohort = followed.find(({ isMember }) => isMember(device))?.cohort;
    if (cohort !== undefined && whyUnfit(device, release?.bundles ?? []) === null)
      members.set(device.id, { device: device.id, cohort, compatible: device.compatible });
  }
  const outside = new Set(await deps.store.listOutside(plan.id, [...members.keys()]));
  return [...members.values()].filter(({ device }) => outside.has(device));
};

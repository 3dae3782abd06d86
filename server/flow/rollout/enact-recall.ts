/**
 * Sends devices of a recalled rollout back to what they ran before. That it was recalled is recorded with the rollout,
 * by a person's decision or by its halt; everything here follows from that record and can be done again, no matter what
 * crashed in between.
 */

import { auditLine, BY_SERVER } from '#server/domain/audit.ts';
import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { type Destination, type Recallable, recalledOf, sortRecall } from '#server/domain/rollout/recall.ts';
import type { Recalled } from '#server/domain/rollout/rollout.ts';
import { planWaves } from '#server/domain/rollout/waves.ts';
import type { ReleaseRecord } from '#server/store/catalogue.ts';
import type { RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import { inBatches } from '#shared/batches.ts';
import { Id, releaseRef } from '#shared/ids.ts';
import { Policy, URGENT_PRIORITY } from '#shared/policy.ts';
import type { StayReason } from '#shared/recall.ts';
import { plannedDeployment } from './plan-rollout.ts';

type Deps = {
  store: Pick<Store, 'getRollout' | 'getRelease' | 'findBundle' | 'listRecallable' | 'listRecalls' | 'saveRecall'>;
  now: () => number;
};
/** In one transaction. */
export const DEVICES_AT_ONCE = 10_000;
/** More devices than any fleet that one database holds. */
const ROUNDS_MAX = 200;
const NAMED_A_LINE = 500;

/**
 * Everyone who runs the release because of a recalled rollout, and is not on the way back, gets on it or is named as
 * one who stays. Nothing where no one recalled it. Safe to call at any time, and by several at once.
 */
export const enactRecall = async (deps: Deps, id: Id): Promise<void> => {
  for (let round = 0; round < ROUNDS_MAX; round += 1) {
    const record = await deps.store.getRollout(id);
    const recalled = record && recalledOf(record.progress);
    if (record === undefined || recalled === undefined) return;
    const found = await deps.store.listRecallable(id, recalled.at, DEVICES_AT_ONCE);
    if (found.length === 0) return;
    await deps.store.saveRecall(await planRecall(deps, record, recalled, found));
  }
  // It stays due, and is tried again.
  throw new Error(`the recall of rollout ${id} does not come to an end`);
};

type Save = Parameters<Store['saveRecall']>[0];

const planRecall = async (
  { store, now }: Deps,
  record: RolloutRecord,
  recalled: Recalled,
  devices: Recallable[],
): Promise<Save> => {
  const { plan } = record;
  // Whatever clocks say: what is decided for a recall is decided after it.
  const at = Math.max(now(), recalled.at);
  const to = recalled.to && (await store.getRelease(plan.product, recalled.to.version));
  const known = recalled.to === undefined ? await destinationsOf(store, devices, plan.channel) : [];
  const { groups, stays } = sortRecall(devices, known, to && destinationOf(to, plan.channel));
  const save: Save = {
    recalled: record,
    created: [],
    joined: [],
    stays,
    audit: stayLines(plan.id, stays, at),
    now: at,
  };
  const before = await store.listRecalls(plan.id);
  for (const { destination, devices: members } of groups) {
    const open = await openTo(store, before, destination);
    if (open !== undefined) {
      const deployments = joining(open, members, at);
      save.joined.push({ rollout: open, deployments });
      save.audit.push(...joinLines(open.plan.id, plan.id, deployments, at));
      continue;
    }
    const name = Id.parse(`${plan.id}-r${before.length + save.created.length + 1}`);
    const created = newRollout(name, record, recalled, destination, members, at);
    save.created.push(created);
    save.audit.push(plannedLine(created.rollout, at));
  }
  return save;
};

export const destinationOf = ({ product, version, progress, bundles }: ReleaseRecord, preferred: Id): Destination => {
  const channels = progress.state === 'staged' ? progress.channels : [];
  return {
    product,
    version,
    state: progress.state,
    channel: channels.includes(preferred) ? preferred : (channels.at(-1) ?? null),
    bundles: bundles.map(({ compatible, manifestSha256, manifest }) => ({
      compatible,
      manifest: manifestSha256,
      securityCounter: manifest.securityCounter,
    })),
  };
};

/** The releases that these devices ran before, as far as they are known here. */
const destinationsOf = async (
  store: Pick<Store, 'findBundle' | 'getRelease'>,
  devices: readonly Recallable[],
  preferred: Id,
): Promise<Destination[]> => {
  const releases = new Map<string, Destination>();
  for (const manifest of new Set(devices.flatMap(({ before }) => (before === null ? [] : [before.manifest])))) {
    const bundle = await store.findBundle(manifest);
    const release = bundle && (await store.getRelease(bundle.product, bundle.version));
    if (release !== undefined)
      releases.set(releaseRef(release.product, release.version), destinationOf(release, preferred));
  }
  return [...releases.values()];
};

/** A rollout that is on its way to the same release with others of this recall. */
const openTo = async (
  store: Pick<Store, 'getRollout'>,
  before: Awaited<ReturnType<Store['listRecalls']>>,
  { product, version }: Destination,
): Promise<RolloutRecord | undefined> => {
  for (const one of before.toReversed()) {
    if (one.product !== product || one.version !== version) continue;
    const rollout = await store.getRollout(one.id);
    if (rollout?.progress.state === 'scheduled' || rollout?.progress.state === 'running') return rollout;
  }
  return undefined;
};

const joining = ({ plan }: RolloutRecord, devices: readonly Recallable[], at: number): DeploymentRecord[] => {
  const wave = plan.waveSizes.length - 1;
  const total = plan.waveSizes.reduce((sum, size) => sum + size, 0);
  return devices.map(({ device, cohort, compatible }, index) => {
    const position = plan.waveSizes[wave]! + index;
    return plannedDeployment(plan.id, { device, cohort, compatible, wave, position }, total + index, at);
  });
};

/**
 * Urgent, and otherwise with every default: windows and separate activation of the recalled one are not for a recall.
 */
const newRollout = (
  id: Id,
  { plan }: RolloutRecord,
  { by, to }: Recalled,
  { product, version, channel }: Destination,
  devices: readonly Recallable[],
  at: number,
): Save['created'][number] => {
  const cohorts = plan.cohorts
    .filter(({ cohort }) => devices.some((device) => device.cohort === cohort))
    .map(({ cohort }) => ({ cohort, waves: [{ percent: 100 }] }));
  const members = cohorts.map((cohort) => ({
    plan: cohort,
    devices: devices
      .filter((device) => device.cohort === cohort.cohort)
      .map(({ device, compatible }) => ({ id: device, compatible })),
  }));
  const { placements, waveSizes } = planWaves(members, id);
  const needed = to?.approvals ?? 0;
  const isFree = needed === 0;
  return {
    rollout: {
      plan: {
        id,
        product,
        version,
        channel: channel ?? plan.channel,
        cohorts,
        policy: Policy.parse({ priority: URGENT_PRIORITY }),
        waveSizes,
        recalls: plan.id,
        createdAt: at,
        createdBy: by,
      },
      progress: isFree
        ? { state: 'scheduled', startAt: at }
        : { state: 'awaiting-approval', needed, approvedBy: [], startAt: at },
      nextTickAt: isFree ? at : null,
      revision: 1,
    },
    deployments: placements.map((placement, index) => plannedDeployment(id, placement, index, at)),
  };
};

const plannedLine = ({ plan }: RolloutRecord, at: number) => {
  const { id, product, version, waveSizes, recalls, createdBy } = plan;
  const devices = waveSizes.reduce((sum, size) => sum + size, 0);
  const about = { rollout: id, product, version, devices, waveSizes, excluded: 0, recalls };
  return auditLine({ at, by: createdBy, kind: 'rollout-planned', ...about });
};

const inLines = <T>(items: readonly T[]): T[][] => inBatches(items, NAMED_A_LINE);
const joinLines = (rollout: Id, recalls: Id, deployments: readonly DeploymentRecord[], at: number) =>
  inLines(deployments.map(({ device }) => device)).map((devices) =>
    auditLine({ at, by: BY_SERVER, kind: 'recall-joined', rollout, recalls, devices }),
  );
const stayLines = (rollout: Id, stays: readonly { device: Id; reason: StayReason }[], at: number) =>
  [...new Set(stays.map(({ reason }) => reason))].flatMap((reason) =>
    inLines(stays.filter((one) => one.reason === reason).map(({ device }) => device)).map((devices) =>
      auditLine({ at, by: BY_SERVER, kind: 'recall-stays', rollout, devices, reason }),
    ),
  );

/**
 * Sending the devices of a rollout back to what they ran before it. The rollout remembers that it was recalled;
 * ordinary rollouts do it (docs/decisions/0006-recall-is-an-install-that-finds-its-slot-written.md). Pure.
 */
import type { DeploymentState, DeviceError, Running } from '#shared/deployment.ts';
import { type Id, type Millis, releaseRef, type Sha256 } from '#shared/ids.ts';
import { refuse } from '#shared/problems.ts';
import { STAYS, type StayReason } from '#shared/recall.ts';
import { BY_SERVER } from '../audit.ts';
import type { HaltReason } from '../halt-reason.ts';
import type { Recalled, Rollout, RolloutPlan, RolloutState } from './rollout.ts';
import type { RolloutEvent, RolloutFacts, RolloutStep } from './rollout-events.ts';

export const recalledOf = (progress: RolloutState): Recalled | undefined =>
  'recalled' in progress ? progress.recalled : undefined;

/**
 * Whether this halt recalls by itself. That no one was heard says nothing against the release; a recall is never
 * recalled so.
 */
export const recallsByItself = ({ policy, recalls }: Rollout, reason: HaltReason): boolean =>
  policy.onHalt === 'recall' &&
  recalls === undefined &&
  !(reason.kind === 'gate-unreachable' && reason.failed === 0 && reason.reachable === 0);

/** What a halt adds to the rollout; nothing where it does not recall, or someone did before. */
export const recallAtHalt = (
  rollout: Rollout,
  reason: HaltReason,
  now: Millis,
): { recalled: { recalled?: Recalled }; isNew: boolean } => {
  const known = recalledOf(rollout.progress);
  if (known !== undefined) return { recalled: { recalled: known }, isNew: false };
  return recallsByItself(rollout, reason)
    ? { recalled: { recalled: { at: now, by: BY_SERVER, note: '' } }, isNew: true }
    : { recalled: {}, isNew: false };
};

/**
 * A person recalls what has ended or was halted. Again: devices that did not go back at the first time are looked at
 * again.
 */
export const recall = (
  rollout: Rollout,
  { by, note, to }: Extract<RolloutEvent, { kind: 'recall' }>,
  { now }: RolloutFacts,
  stay: RolloutStep,
): RolloutStep => {
  const { progress, id, product } = rollout;
  if (progress.state !== 'halted' && progress.state !== 'completed' && progress.state !== 'aborted') return stay;
  // After the one before, so that what was decided for that is decided again.
  const at = Math.max(now, (recalledOf(progress)?.at ?? -1) + 1);
  const recalled: Recalled = { at, by, note, ...(to === undefined ? {} : { to }) };
  const release = to === undefined ? null : releaseRef(product, to.version);
  return {
    ...stay,
    next: { ...rollout, progress: { ...progress, recalled } },
    audit: [{ at: now, by, kind: 'rollout-recalled', rollout: id, to: release, note }],
    nextTickAt: now,
  };
};

/** Why a recalled rollout is not resumed; undefined when it was not recalled, or there was no one to go back. */
export const refusedAsRecalled = (rollout: Rollout, { goingBack }: Pick<RolloutFacts, 'goingBack'>) =>
  recalledOf(rollout.progress) === undefined || goingBack === 0
    ? undefined
    : refuse(
        'conflict',
        `Rollout ${rollout.id} was recalled: resuming it would offer the release again to devices that go back. Plan a new rollout instead.`,
      );

/** A device that runs the release of a recalled rollout. */
export type Recallable = {
  device: Id;
  cohort: Id;
  compatible: Id;
  /** `skipped`: it ran the release before the rollout came. */
  state: 'committed' | 'failed' | 'skipped';
  /** What it ran when it was offered the release; null when that was nothing, or is not known. */
  before: Running | null;
  floor: number;
  isLetIn: boolean;
};

/** What decides whether a device runs the release of a rollout because of it. */
export type RecallFacts = {
  state: DeploymentState;
  error: DeviceError | null;
  /** What it runs, by its own report; null where it has not said so. */
  runs: Sha256 | null;
  /** What the rollout offered it. */
  manifest: Sha256;
  /** It has committed another rollout since. */
  committedElsewhere: boolean;
};

/**
 * It committed the release, or ran it already, and nothing has changed that since. One that committed and fell ill
 * later counts too.
 */
export const isRecallable = (facts: RecallFacts): facts is RecallFacts & Pick<Recallable, 'state'> => {
  const { state, error, runs, manifest, committedElsewhere } = facts;
  const ranIt = state === 'committed' || state === 'skipped' || (state === 'failed' && error?.code === 'REGRESSED');
  return ranIt && (runs === null || runs === manifest) && !committedElsewhere;
};

/** A release that devices may go back to, as far as that depends on it. `channel`: where it is staged. */
export type Destination = {
  product: Id;
  version: string;
  state: 'accepted' | 'staged' | 'withdrawn';
  channel: Id | null;
  bundles: readonly { compatible: Id; manifest: Sha256; securityCounter: number }[];
};

export type Sorted = {
  groups: { destination: Destination; devices: Recallable[] }[];
  stays: { device: Id; reason: StayReason }[];
};

/** Who goes back where, and who cannot. `to`: all to this release, whatever they ran. */
export const sortRecall = (
  devices: readonly Recallable[],
  known: readonly Destination[],
  to: Destination | undefined,
): Sorted => {
  const groups = new Map<Destination, Recallable[]>();
  const stays: Sorted['stays'] = [];
  for (const device of devices) {
    const found = placeOf(device, known, to);
    if (typeof found === 'string') stays.push({ device: device.device, reason: found });
    else groups.set(found, [...(groups.get(found) ?? []), device]);
  }
  return { groups: [...groups].map(([destination, members]) => ({ destination, devices: members })), stays };
};

const placeOf = (
  device: Recallable,
  known: readonly Destination[],
  to: Destination | undefined,
): Destination | StayReason => {
  if (!device.isLetIn) return 'shut-out';
  if (device.state === 'skipped' && device.before === null) return 'not-by-this';
  if (device.before === null && to === undefined) return 'ran-nothing';
  const destination =
    to ?? known.find(({ bundles }) => bundles.some(({ manifest }) => manifest === device.before?.manifest));
  if (destination === undefined) return 'unknown-release';
  if (destination.state === 'withdrawn') return 'withdrawn';
  if (destination.channel === null) return 'not-staged';
  const bundle = destination.bundles.find(({ compatible }) => compatible === device.compatible);
  if (bundle === undefined) return 'other-hardware';
  return bundle.securityCounter < device.floor ? 'below-floor' : destination;
};

const REASONED_MAX = 3;
/** What became of a recall, in a sentence or two for people. */
export const recallWords = (
  recalled: Recalled,
  rollouts: readonly { id: Id; release: string; devices: number }[],
  stays: readonly { reason: StayReason; devices: number }[],
): string => {
  const by = recalled.by === BY_SERVER ? 'Recalled by its policy' : `Recalled by ${recalled.by}`;
  const back = rollouts.map(({ id, release, devices }) => `${devices} back to ${release} with ${id}`).join(', ');
  const total = stays.reduce((sum, { devices }) => sum + devices, 0);
  const why = stays
    .slice(0, REASONED_MAX)
    .map(({ reason, devices }) => `${devices}: ${STAYS[reason]}`)
    .join('; ');
  const staying = total === 0 ? '' : ` ${total} cannot go back (${why}${stays.length > REASONED_MAX ? '; ...' : ''}).`;
  return ` ${by}: ${back === '' ? 'no one goes back' : back}.${staying}`;
};

/** For a person who recalls it again. */
export const nobodyLeftWords = ({ id, product, version }: Pick<RolloutPlan, 'id' | 'product' | 'version'>): string =>
  `No one is left to recall: each device that ran ${releaseRef(product, version)} because of ${id} went back, is on the way, or runs something else by now.`;

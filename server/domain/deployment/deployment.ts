/** One rollout on one device as the server keeps it, and how deployments are counted for the judge. */
import type { DeploymentState, DeviceError, OverdueClass } from '#shared/deployment.ts';
import { type Id, type Millis, unreachable } from '#shared/ids.ts';
import type { Policy } from '#shared/policy.ts';

export type DeploymentRecord = {
  id: Id;
  rollout: Id;
  device: Id;
  cohort: Id;
  compatible: Id;
  wave: number;
  /** Order within the wave, by stable hash. */
  position: number;
  state: DeploymentState;
  offeredAt: Millis | null;
  /** When the agent first said that it acts on the offer. From here on the device counts for the judge. */
  acceptedAt: Millis | null;
  decidedAt: Millis | null;
  stateAt: Millis;
  /** When the present state becomes overdue; null when it never does. */
  deadlineAt: Millis | null;
  /** Not null exactly while the state is `overdue`. */
  overdue: OverdueClass | null;
  /**
   * The device waits, by instruction: for a window before it begins (`offered`), or for a window, a time or a command
   * before it activates (`ready`). Until then it is not at risk and nothing is expected of it. `HELD_FOR_COMMAND`:
   * until told.
   */
  heldUntil: Millis | null;
  error: DeviceError | null;
  /** The state it was in when the server withdrew it, or when it became overdue. */
  reached?: DeploymentState;
  /** Not overdue before: the server was away. Absent for most. */
  graceUntil?: Millis;
  /** How often it was offered, from the second time on. The device's reports name the attempt that they are about. */
  offers?: number;
  /** Absent as long as everything went straight. */
  attempts?: Attempts;
  revision: number;
};

/** The last moment that a `Date` knows: longer than any wait. */
export const HELD_FOR_COMMAND: Millis = 8_640_000_000_000_000;

/** The device has begun, or may, but nothing of the release can boot yet: the server can still take it back. */
export const NOT_ACTIVATED = ['offered', 'fetching', 'installing', 'ready'] as const satisfies DeploymentState[];
/** While a deployment is in one of these states it owns its device: no other may instruct it. */
export const OWNING = [...NOT_ACTIVATED, 'trial'] as const satisfies DeploymentState[];
export const owns = ({ state }: Pick<DeploymentRecord, 'state'>): boolean => OWNING.some((owning) => owning === state);

/** How often it was offered, the first time too. */
export const offersOf = ({ offers, offeredAt }: Pick<DeploymentRecord, 'offers' | 'offeredAt'>): number =>
  offers ?? (offeredAt === null ? 0 : 1);

/**
 * `installed`: ready, and held back by its window or until all activate. `unaccepted`: offered, nothing heard.
 * `undecided`: accepted, no outcome yet. `never-heard`: overdue without having accepted.
 */
export type OutcomeClass =
  | 'planned'
  | 'unaccepted'
  | 'undecided'
  | 'installed'
  | 'healthy'
  | 'failed'
  | 'never-heard'
  | 'withdrawn'
  | 'skipped';

/**
 * Deployments of one rollout counted for the judge: how many share group, wave, outcome and age. Bins are
 * `binMsOf(policy)` long.
 */
export type OutcomeBin = {
  cohort: Id;
  compatible: Id;
  wave: number;
  outcome: OutcomeClass;
  /** floor(acceptedAt / binMs), or of offeredAt where nothing was accepted; null for planned and skipped. */
  startBin: number | null;
  /** floor((decidedAt - acceptedAt) / binMs) for healthy ones; null for all others. */
  delayBins: number | null;
  devices: number;
};

/**
 * Ages are counted in this many bins between acceptance and the outcome deadline: with the default of an hour, a bin is
 * a minute.
 */
export const AGE_BINS = 60;
export const binMsOf = (policy: Pick<Policy, 'deadlines'>): number =>
  Math.max(1, Math.ceil(policy.deadlines.outcomeMs / AGE_BINS));

/**
 * How a deployment counts. Bad news is taken at the device's report, good news only with its receipt: `committed` is
 * never reached without one.
 */
export const outcomeOf = (
  deployment: Pick<DeploymentRecord, 'state' | 'acceptedAt' | 'overdue' | 'heldUntil'>,
): OutcomeClass => {
  switch (deployment.state) {
    case 'planned':
    case 'skipped':
    case 'withdrawn':
      return deployment.state;
    case 'committed':
      return 'healthy';
    case 'reverted':
    case 'failed':
      return 'failed';
    case 'overdue':
      return deployment.overdue === 'never-heard' ? 'never-heard' : 'failed';
    case 'offered':
    case 'fetching':
    case 'installing':
    case 'trial':
      return deployment.acceptedAt === null ? 'unaccepted' : 'undecided';
    case 'ready':
      if (deployment.heldUntil !== null) return 'installed';
      return deployment.acceptedAt === null ? 'unaccepted' : 'undecided';
    default:
      return unreachable(deployment.state);
  }
};

/**
 * Deployments that count alike: their state, and their times in bins. The times of `state` are null or not, and no
 * more.
 */
export type Alike = Pick<
  DeploymentRecord,
  'cohort' | 'compatible' | 'wave' | 'state' | 'acceptedAt' | 'overdue' | 'heldUntil'
> & {
  startBin: number | null;
  delayBins: number | null;
  devices: number;
};

/** How they count: those that count alike as one. */
export const binsOf = (counted: readonly Alike[]): OutcomeBin[] => {
  const bins = new Map<string, OutcomeBin>();
  for (const { cohort, compatible, wave, startBin, delayBins, devices, ...state } of counted) {
    const outcome = outcomeOf(state);
    const bin: OutcomeBin = {
      cohort,
      compatible,
      wave,
      outcome,
      startBin: outcome === 'planned' || outcome === 'skipped' ? null : startBin,
      delayBins: outcome === 'healthy' ? delayBins : null,
      devices,
    };
    const key = JSON.stringify({ ...bin, devices: 0 });
    const known = bins.get(key);
    if (known) known.devices += devices;
    else bins.set(key, bin);
  }
  return [...bins.values()];
};

/** By cohort, compatible, wave, outcome, start and delay: so that equal counts are equal records. */
export const inOrderOfBins = (one: OutcomeBin, other: OutcomeBin): number =>
  byText(one.cohort, other.cohort) ||
  byText(one.compatible, other.compatible) ||
  one.wave - other.wave ||
  byText(one.outcome, other.outcome) ||
  (one.startBin ?? -1) - (other.startBin ?? -1) ||
  (one.delayBins ?? -1) - (other.delayBins ?? -1);
const byText = (one: string, other: string): number => (one < other ? -1 : one > other ? 1 : 0);

/** The same, counted from the deployments themselves: for tests and simulations. */
export const countOutcomes = (deployments: readonly DeploymentRecord[], binMs: number): OutcomeBin[] =>
  binsOf(
    deployments.map((deployment) => {
      const { acceptedAt, offeredAt, decidedAt } = deployment;
      const start = acceptedAt ?? offeredAt;
      return {
        ...pickAlike(deployment),
        startBin: start === null ? null : Math.floor(start / binMs),
        delayBins:
          decidedAt === null || acceptedAt === null ? null : Math.max(0, Math.floor((decidedAt - acceptedAt) / binMs)),
        devices: 1,
      };
    }),
  );
const pickAlike = ({ cohort, compatible, wave, state, acceptedAt, overdue, heldUntil }: DeploymentRecord) => ({
  cohort,
  compatible,
  wave,
  state,
  acceptedAt,
  overdue,
  heldUntil,
});

/** What became of a deployment's earlier attempts. */
export type Attempts = {
  /** Attempts that ended and are to be repeated, deferred ones too. */
  ended: number;
  /** Those of them that failed: what the policy limits. */
  failed: number;
  /** It is not offered again before. */
  notBefore: Millis | null;
  /** How often the device went on trial after it had said that it was withdrawn. */
  returns: number;
};

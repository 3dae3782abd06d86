/** One device's journey in one rollout as the server keeps it, and how journeys are counted for the judge. */
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
   * The device waits, by instruction: for a window before it begins (`offered`), or for a window, a time or a command before
   * it activates (`ready`). Until then it is not at risk and nothing is expected of it. `HELD_FOR_COMMAND`: until told.
   */
  heldUntil: Millis | null;
  error: DeviceError | null;
  /** The state it was in when the server withdrew it, or when it became overdue. */
  reached?: DeploymentState;
  /** Not overdue before: the server was away. Absent for most. */
  graceUntil?: Millis;
  /** How often it was offered, from the second time on. The device's words name the attempt that they are about. */
  offers?: number;
  /** Absent as long as everything went straight. */
  attempts?: Attempts;
  revision: number;
};

/** The last moment that a `Date` knows: longer than any wait. */
export const HELD_FOR_COMMAND: Millis = 8_640_000_000_000_000;

/** `installed`: ready, and held back by its window or until all activate. `unaccepted`: offered, nothing heard. `undecided`: accepted, no outcome yet. `never-heard`: overdue without having accepted. */
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

/** Deployments of one rollout counted for the judge: how many share group, wave, outcome and age. Bins are `binMsOf(policy)` long. */
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

/** Ages are counted in this many bins between acceptance and the outcome deadline: with the default of an hour, a bin is a minute. */
export const AGE_BINS = 60;
export const binMsOf = (policy: Pick<Policy, 'deadlines'>): number =>
  Math.max(1, Math.ceil(policy.deadlines.outcomeMs / AGE_BINS));

/** How a deployment counts. Bad news is taken at the device's word, good news only with its receipt: `committed` is never reached without one. */
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

/** The counting that a store does by query, done in memory: the definition, for tests and simulations. */
export const countOutcomes = (deployments: DeploymentRecord[], binMs: number): OutcomeBin[] => {
  const bins = new Map<string, OutcomeBin>();
  for (const deployment of deployments) {
    const outcome = outcomeOf(deployment);
    const start =
      outcome === 'planned' || outcome === 'skipped' ? null : (deployment.acceptedAt ?? deployment.offeredAt);
    const delay =
      outcome === 'healthy' && deployment.decidedAt !== null && deployment.acceptedAt !== null
        ? deployment.decidedAt - deployment.acceptedAt
        : null;
    const bin: OutcomeBin = {
      cohort: deployment.cohort,
      compatible: deployment.compatible,
      wave: deployment.wave,
      outcome,
      startBin: start === null ? null : Math.floor(start / binMs),
      delayBins: delay === null ? null : Math.max(0, Math.floor(delay / binMs)),
      devices: 1,
    };
    const key = JSON.stringify(bin);
    const known = bins.get(key);
    if (known) known.devices += 1;
    else bins.set(key, bin);
  }
  return [...bins.values()];
};

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

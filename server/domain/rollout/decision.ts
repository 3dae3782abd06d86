/**
 * A decision about a rollout with everything that it was made from, so that anyone can make it again: `stepRollout` is
 * pure, and the same inputs must lead to the same outcome (docs/decisions/0007).
 */
import type { Id, Millis, Sha256 } from '#shared/ids.ts';
import type { OutcomeBin, OutcomeClass } from '../deployment/deployment.ts';
import { type Figures, figuresOf } from './figures.ts';
import type { Rollout, RolloutState } from './rollout.ts';
import type { RolloutEvent, RolloutFacts, RolloutStep } from './rollout-events.ts';
import { stepRollout } from './rollout-step.ts';

/** All of a step but the rollout itself, of which only `progress` and `activatedAt` change. */
export type Outcome = Omit<RolloutStep, 'next' | 'refused'> & { progress: RolloutState; activatedAt?: Millis };
export type Decision = {
  /**
   * The digest of the record of the decision before; null for a rollout's first. Who changes one record has to change
   * all later ones.
   */
  previous: Sha256 | null;
  /** As it was before. */
  rollout: Rollout;
  event: RolloutEvent;
  facts: RolloutFacts;
  figures: Figures;
  outcome: Outcome;
};

const outcomeOf = (step: RolloutStep): Outcome => {
  const { next, refused, ...rest } = step;
  if (refused !== null) throw new Error(`what is refused decides nothing: ${refused.detail}`);
  const { progress, activatedAt } = next;
  return { ...rest, progress, ...(activatedAt === undefined ? {} : { activatedAt }) };
};

export const decisionOf = (
  previous: Sha256 | null,
  rollout: Rollout,
  event: RolloutEvent,
  facts: RolloutFacts,
  step: RolloutStep,
): Decision => ({ previous, rollout, event, facts, figures: figuresOf(rollout, facts), outcome: outcomeOf(step) });

/**
 * What a rollout is about, without its figures: two steps with the same stand decided the same. A rate limit is no
 * stand of its own: with one a rollout offers and waits in turn, several times a minute.
 */
const standOf = (progress: RolloutState): string => {
  if (progress.state !== 'running') return JSON.stringify([progress.state, 'wave' in progress ? progress.wave : null]);
  const { state, wave, gateSince, hold, acknowledged } = progress;
  const kind = hold?.kind === 'activation' ? `activation ${hold.waits}` : hold?.kind;
  return JSON.stringify([
    state,
    wave,
    gateSince !== null,
    kind === 'rate-limit' ? null : kind,
    acknowledged?.reduce((sum, { failed, neverHeard }) => sum + failed + neverHeard, 0) ?? 0,
  ]);
};

/**
 * `yes`: something was decided, or why it waits is another reason now. `if-offered`: only if someone took part in it,
 * since a rollout whose devices are all busy asks again at every tick. `no`: as before; ticks of which nothing is to be
 * told.
 */
export const isWorthRecording = (before: RolloutState, step: RolloutStep): 'yes' | 'if-offered' | 'no' => {
  if (step.audit.length > 0 || step.withdraw !== null || step.replan || step.activate === true) return 'yes';
  if (standOf(before) !== standOf(step.next.progress)) return 'yes';
  return step.offers.length > 0 ? 'if-offered' : 'no';
};

/**
 * Nothing of it is other than before, but when to look again. Nor is that a new window for starts has begun, as long as
 * no one is offered anything: the next tick begins it as well.
 */
export const changesNothing = (rollout: Rollout, step: RolloutStep): boolean =>
  isWorthRecording(rollout.progress, step) === 'no' &&
  isSame(
    { ...rollout, progress: withoutStarts(rollout.progress) },
    { ...step.next, progress: withoutStarts(step.next.progress) },
  );
const withoutStarts = (progress: RolloutState): object => ({ ...progress, starts: undefined });

/**
 * In the order of docs: numbers are half as long as names, and there may be hundreds of bins. Never in another order:
 * records hold the index.
 */
const OUTCOMES: readonly OutcomeClass[] = [
  'planned',
  'unaccepted',
  'undecided',
  'installed',
  'healthy',
  'failed',
  'never-heard',
  'withdrawn',
  'skipped',
];
/** Bins in a row that share their group; each: wave, outcome, start bin since `from`, delay, devices. */
type PackedBins = {
  from: number;
  groups: { cohort: Id; compatible: Id; bins: [number, number, number | null, number | null, number][] }[];
};

const packBins = (bins: readonly OutcomeBin[]): PackedBins => {
  const from = bins.reduce((least, { startBin }) => Math.min(least, startBin ?? least), Number.MAX_SAFE_INTEGER);
  const groups: PackedBins['groups'] = [];
  for (const { cohort, compatible, wave, outcome, startBin, delayBins, devices } of bins) {
    let group = groups.at(-1);
    if (group?.cohort !== cohort || group.compatible !== compatible) {
      group = { cohort, compatible, bins: [] };
      groups.push(group);
    }
    const since = startBin === null ? null : startBin - from;
    group.bins.push([wave, OUTCOMES.indexOf(outcome), since, delayBins, devices]);
  }
  return { from, groups };
};
const unpackBins = ({ from, groups }: PackedBins): OutcomeBin[] =>
  groups.flatMap(({ cohort, compatible, bins }) =>
    bins.map(([wave, outcome, since, delayBins, devices]): OutcomeBin => {
      const name = OUTCOMES[outcome];
      if (name === undefined) throw new Error(`a recorded bin has the outcome ${outcome}, which there is not`);
      const startBin = since === null ? null : since + from;
      return { cohort, compatible, wave, outcome: name, startBin, delayBins, devices };
    }),
  );

type PackedDecision = Omit<Decision, 'facts'> & { facts: Omit<RolloutFacts, 'bins'> & { bins: PackedBins } };

/** The record: exactly the bytes whose digest the audit log and the next decision name. */
export const recordOf = (decision: Decision): string => {
  const packed: PackedDecision = { ...decision, facts: { ...decision.facts, bins: packBins(decision.facts.bins) } };
  return JSON.stringify(packed);
};
/** Only of what `recordOf` made. */
export const readRecord = (record: string): Decision => {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- of `recordOf`, by its digest
  const packed = JSON.parse(record) as PackedDecision;
  return { ...packed, facts: { ...packed.facts, bins: unpackBins(packed.facts.bins) } };
};

const isSame = (a: unknown, b: unknown): boolean => canonical(a) === canonical(b);
/** Members in one order, absent ones left out: how they are written says nothing. */
const canonical = (value: unknown): string =>
  JSON.stringify(value, (_, member: unknown) =>
    typeof member === 'object' && member !== null && !Array.isArray(member)
      ? Object.fromEntries(Object.entries(member).sort(([a], [b]) => (a < b ? -1 : 1)))
      : member,
  );

/**
 * What of a recorded decision does not follow from its inputs: empty when all of it does. `before` is the decision
 * recorded before it.
 */
export const faultsOf = (decision: Decision, before?: Decision): string[] => {
  const { rollout, event, facts, outcome } = decision;
  const step = stepRollout(rollout, event, facts);
  if (step.refused !== null) return [`these inputs are refused: ${step.refused.detail}`];
  const recorded = new Map<string, unknown>(Object.entries(outcome));
  const again = new Map<string, unknown>(Object.entries(outcomeOf(step)));
  const faults = [...new Set([...recorded.keys(), ...again.keys()])]
    .filter((member) => !isSame(recorded.get(member), again.get(member)))
    .map((member) => `its inputs lead to another ${MEMBERS[member] ?? member}`);
  if (!isSame(decision.figures, figuresOf(rollout, facts))) faults.push('its inputs lead to other figures');
  if (before !== undefined && standOf(before.outcome.progress) !== standOf(rollout.progress))
    faults.push('the decision before it left the rollout elsewhere: one between them is missing');
  return faults;
};
const MEMBERS: Record<string, string> = {
  progress: 'state',
  audit: 'line in the audit log',
  withdraw: 'withdrawal',
  offers: 'set of offers',
  nextTickAt: 'time to look again',
};

/** A whole history, oldest first: the number of each decision that does not follow, with what is wrong about it. */
export const replayDecisions = (history: readonly Decision[]): { decision: number; faults: string[] }[] =>
  history
    .map((decision, index) => ({ decision: index + 1, faults: faultsOf(decision, history[index - 1]) }))
    .filter(({ faults }) => faults.length > 0);

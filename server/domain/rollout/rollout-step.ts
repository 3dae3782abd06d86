/**
 * What happens to a rollout, decided: the next state, whom to offer to, what to withdraw, what to write down. Nothing
 * is done here. `docs/states.md` repeats the table, and a test holds it there.
 */
import { inBatches } from '#shared/batches.ts';
import { type Millis, unreachable } from '#shared/ids.ts';
import { refuse } from '#shared/problems.ts';
import { type AuditEvent, BY_SERVER } from '../audit.ts';
import { binMsOf } from '../deployment/deployment.ts';
import { watchEndsAt } from '../deployment/late-regression.ts';
import type { HaltReason } from '../halt-reason.ts';
import { acknowledgedIn } from './acknowledge.ts';
import { gateOf, isOutOfReach, isUnheard, ruleOn } from './halting.ts';
import { recall, recallAtHalt, recalledOf, refusedAsRecalled } from './recall.ts';
import type { Acknowledged, Rollout, RolloutState } from './rollout.ts';
import { approve } from './rollout-approval.ts';
import type { RolloutEvent, RolloutFacts, RolloutStep } from './rollout-events.ts';
import { runOn } from './rollout-run.ts';
import { activateAll, endsAt, endWhenOver } from './rollout-time.ts';
import { setAside, stillToAcknowledge, tallyOf, toAcknowledge, withNeverHeard, withoutAges } from './tally.ts';

type StateName = RolloutState['state'];
type EventName = RolloutEvent['kind'];

/** Where each event may lead from each state; nowhere means that it is refused. */
// biome-ignore format: a table is read by its columns
export const TRANSITIONS: Record<StateName, Record<EventName, readonly StateName[]>> = {
  draft:               { tick: ['draft'],                                     pause: [],         resume: [],          activate: [],          approve: [],                                 abort: ['aborted'], recall: [],             'release-withdrawn': ['aborted'] },
  'awaiting-approval': { tick: ['awaiting-approval', 'aborted'],              pause: [],         resume: [],          activate: [],          approve: ['awaiting-approval', 'scheduled'], abort: ['aborted'], recall: [],             'release-withdrawn': ['aborted'] },
  scheduled:           { tick: ['scheduled', 'running', 'aborted'],           pause: [],         resume: [],          activate: [],          approve: [],                                 abort: ['aborted'], recall: [],             'release-withdrawn': ['aborted'] },
  running:             { tick: ['running', 'halted', 'completed', 'aborted'], pause: ['paused'], resume: [],          activate: ['running'], approve: [],                                 abort: ['aborted'], recall: [],             'release-withdrawn': ['halted'] },
  paused:              { tick: ['paused', 'halted', 'completed', 'aborted'],  pause: [],         resume: ['running'], activate: ['paused'],  approve: [],                                 abort: ['aborted'], recall: [],             'release-withdrawn': ['halted'] },
  halted:              { tick: ['halted'],                                    pause: [],         resume: ['running'], activate: [],          approve: [],                                 abort: ['aborted'], recall: ['halted'],     'release-withdrawn': ['halted'] },
  completed:           { tick: ['completed'],                                 pause: [],         resume: [],          activate: [],          approve: [],                                 abort: [],          recall: ['completed'],  'release-withdrawn': ['completed'] },
  aborted:             { tick: ['aborted'],                                   pause: [],         resume: [],          activate: [],          approve: [],                                 abort: [],          recall: ['aborted'],    'release-withdrawn': ['aborted'] },
};

const IDLE_TICK_MS_MIN = 1_000;
const IDLE_TICK_MS_MAX = 60_000;

/** One event, applied. */
export const stepRollout = (rollout: Rollout, event: RolloutEvent, facts: RolloutFacts): RolloutStep => {
  const stay = stayOf(rollout, facts);
  if (TRANSITIONS[rollout.progress.state][event.kind].length === 0) {
    const { state } = rollout.progress;
    const first =
      event.kind === 'recall' && (state === 'running' || state === 'paused') ? ' Halt or abort it first.' : '';
    const detail = `Rollout ${rollout.id} is ${state}: there is nothing to ${event.kind}.${first}`;
    return { ...stay, refused: refuse('conflict', detail) };
  }
  switch (event.kind) {
    case 'tick':
      return tick(rollout, facts);
    case 'pause':
      return pause(rollout, event, facts, stay);
    case 'resume':
      return resume(rollout, event, facts, stay);
    case 'approve':
      return approve(rollout, event, facts, stay);
    case 'abort':
      return abort(rollout, event.by, event.note, facts, stay);
    case 'activate':
      return activateAll(rollout, event, facts, stay);
    case 'recall':
      return recall(rollout, event, facts, stay);
    case 'release-withdrawn':
      return onReleaseWithdrawn(rollout, event.by, facts, stay);
    default:
      return unreachable(event);
  }
};

/**
 * Nothing changes. While devices are still on their way, ticks go on (slowly), so that the silent ones become overdue.
 */
const stayOf = (rollout: Rollout, facts: RolloutFacts): RolloutStep => ({
  next: rollout,
  offers: [],
  withdraw: null,
  replan: false,
  audit: [],
  nextTickAt: idleTickAt(rollout, facts),
  refused: null,
});

/** Also when its time is over, at whatever rest it is until then. */
const idleTickAt = (rollout: Rollout, facts: RolloutFacts): Millis | null => {
  const tickAt = waitingTickAt(rollout, facts);
  const endAt = endsAt(rollout);
  if (endAt === undefined) return tickAt;
  return Math.min(tickAt ?? Number.POSITIVE_INFINITY, Math.max(endAt, facts.now));
};

const waitingTickAt = (rollout: Rollout, { now, bins }: RolloutFacts): Millis | null => {
  if (rollout.progress.state === 'scheduled') return rollout.progress.startAt;
  if (rollout.progress.state === 'running') return now + IDLE_TICK_MS_MIN;
  const tally = tallyOf(bins);
  const watchedUntil = watchEndsAt(bins, binMsOf(rollout.policy), rollout.policy.watch.watchMs);
  const isWatched = watchedUntil !== null && now < watchedUntil;
  if (tally.unaccepted + tally.undecided === 0 && !isWatched) return null;
  return now + Math.min(IDLE_TICK_MS_MAX, Math.max(IDLE_TICK_MS_MIN, binMsOf(rollout.policy)));
};

const tick = (known: Rollout, facts: RolloutFacts): RolloutStep => {
  const rollout = withoutRecovered(known, facts);
  const stay = stayOf(rollout, facts);
  const { progress } = rollout;
  const over = endWhenOver(rollout, facts);
  if (over !== undefined) return over;
  if (progress.state === 'scheduled') return facts.now < progress.startAt ? stay : start(rollout, facts);
  if (progress.state !== 'running' && progress.state !== 'paused') return stay;

  const judged = setAside(facts.bins, progress.acknowledged ?? []);
  const ruling = ruleOn(rollout.policy, judged, facts.now);
  if (ruling.kind === 'halt') return halt(rollout, progress, ruling.reason, facts);
  const bins = withoutAges(judged);
  const gate = gateOf(rollout.policy, bins, progress.wave);
  // Where no wave is left to open, nothing would follow from a wave that no one heard of.
  const isFollowed = bins.some((bin) => bin.wave > gate.wave && bin.outcome === 'planned');
  if (isOutOfReach(gate) || (isUnheard(gate) && isFollowed))
    return halt(rollout, progress, { kind: 'gate-unreachable', ...gate }, facts);
  // A pause stops offers, not outcomes: what is on its way may still prove the release bad.
  if (progress.state === 'paused') return stay;
  const step = runOn(rollout, progress, bins, ruling.grants, facts);
  // Complete, and yet its devices are watched for a while.
  return step.next.progress.state === 'completed' ? { ...step, nextTickAt: idleTickAt(step.next, facts) } : step;
};

/**
 * An acknowledged device that turned out well, or spoke, since is not one any more. The very same rollout where there
 * is none.
 */
const withoutRecovered = (rollout: Rollout, facts: RolloutFacts): Rollout => {
  const { progress } = rollout;
  if ((progress.state !== 'running' && progress.state !== 'paused') || progress.acknowledged === undefined)
    return rollout;
  const acknowledged = stillToAcknowledge(facts.acknowledged ?? progress.acknowledged, facts.bins);
  return acknowledged === progress.acknowledged ? rollout : { ...rollout, progress: { ...progress, acknowledged } };
};

const start = (rollout: Rollout, { now }: RolloutFacts): RolloutStep => ({
  next: { ...rollout, progress: { state: 'running', wave: 0, waveSince: now, gateSince: null, hold: null } },
  offers: [],
  withdraw: null,
  replan: false,
  audit: [
    { at: now, by: BY_SERVER, kind: 'rollout-started', rollout: rollout.id },
    { at: now, by: BY_SERVER, kind: 'wave-opened', rollout: rollout.id, wave: 0, why: 'the rollout started' },
  ],
  nextTickAt: now,
  refused: null,
});

const halt = (
  rollout: Rollout,
  progress: { wave: number; acknowledged?: Acknowledged[] },
  reason: HaltReason,
  facts: RolloutFacts,
): RolloutStep => {
  const { recalled, isNew } = recallAtHalt(rollout, reason, facts.now);
  const { wave, acknowledged } = progress;
  const next: Rollout = {
    ...rollout,
    progress: { state: 'halted', wave, since: facts.now, reason, ...kept(acknowledged), ...recalled },
  };
  const audit: AuditEvent[] = [{ at: facts.now, by: BY_SERVER, kind: 'rollout-halted', rollout: rollout.id, reason }];
  if (isNew)
    audit.push({ at: facts.now, by: BY_SERVER, kind: 'rollout-recalled', rollout: rollout.id, to: null, note: '' });
  return {
    next,
    offers: [],
    withdraw: { reason: `rollout halted: ${reason.kind}`, planned: false },
    replan: false,
    audit,
    nextTickAt: isNew ? facts.now : idleTickAt(next, facts),
    refused: null,
  };
};

const pause = (
  rollout: Rollout,
  event: { by: string; note: string },
  facts: RolloutFacts,
  stay: RolloutStep,
): RolloutStep => {
  if (rollout.progress.state !== 'running') return stay;
  const { wave, acknowledged } = rollout.progress;
  const next: Rollout = {
    ...rollout,
    progress: { state: 'paused', wave, since: facts.now, by: event.by, note: event.note, ...kept(acknowledged) },
  };
  return {
    ...stay,
    next,
    audit: [{ at: facts.now, by: event.by, kind: 'rollout-paused', rollout: rollout.id, note: event.note }],
    nextTickAt: idleTickAt(next, facts),
  };
};

const resume = (
  rollout: Rollout,
  event: Extract<RolloutEvent, { kind: 'resume' }>,
  facts: RolloutFacts,
  stay: RolloutStep,
): RolloutStep => {
  const { progress } = rollout;
  if (progress.state !== 'paused' && progress.state !== 'halted') return stay;
  const recalled = refusedAsRecalled(rollout, facts);
  if (recalled !== undefined) return { ...stay, refused: recalled };
  const acknowledged =
    event.acknowledge !== undefined
      ? withNeverHeard(event.acknowledge.failures, facts.bins)
      : progress.state === 'halted'
        ? toAcknowledge(facts.bins)
        : (progress.acknowledged ?? []);
  if (progress.state === 'halted') {
    if (progress.reason.kind === 'release-withdrawn') {
      return {
        ...stay,
        refused: refuse('conflict', 'The release was withdrawn: abort the rollout, and roll out another release.'),
      };
    }
    if (event.note.trim() === '') {
      const detail =
        'After a halt, say in the note why to go on: resuming acknowledges the failures so far, and they no longer count.';
      return { ...stay, refused: refuse('invalid-request', detail) };
    }
  }
  const failed = acknowledged.reduce((sum, entry) => sum + entry.failed, 0);
  const neverHeard = acknowledged.reduce((sum, entry) => sum + entry.neverHeard, 0);
  return {
    ...stay,
    next: {
      ...rollout,
      progress: {
        state: 'running',
        wave: progress.wave,
        waveSince: facts.now,
        gateSince: null,
        hold: null,
        ...kept(acknowledged),
      },
    },
    replan: progress.state === 'halted',
    audit: [
      {
        at: facts.now,
        by: event.by,
        kind: 'rollout-resumed',
        rollout: rollout.id,
        note: event.note,
        ...(progress.state === 'halted' ? { acknowledged: failed, neverHeard } : {}),
      },
      ...acknowledging(rollout, event, facts.now),
    ],
    nextTickAt: facts.now,
  };
};

const DEVICES_A_LINE = 500;

/** Who no longer counts, by name. */
const acknowledging = (
  { id }: Rollout,
  { by, acknowledge }: Extract<RolloutEvent, { kind: 'resume' }>,
  at: Millis,
): AuditEvent[] => {
  const devices = acknowledge?.devices ?? [];
  return inBatches(devices, DEVICES_A_LINE).map((named) => ({
    at,
    by,
    kind: 'failures-acknowledged',
    rollout: id,
    devices: named,
  }));
};

const abort = (rollout: Rollout, by: string, note: string, facts: RolloutFacts, stay: RolloutStep): RolloutStep => {
  const recalled = recalledOf(rollout.progress);
  const next: Rollout = {
    ...rollout,
    progress: {
      state: 'aborted',
      at: facts.now,
      by,
      note,
      ...acknowledgedIn(rollout.progress),
      ...(recalled === undefined ? {} : { recalled }),
    },
  };
  return {
    ...stay,
    next,
    withdraw: { reason: 'rollout aborted', planned: true },
    audit: [{ at: facts.now, by, kind: 'rollout-aborted', rollout: rollout.id, note }],
    nextTickAt: idleTickAt(next, facts),
  };
};

const onReleaseWithdrawn = (rollout: Rollout, by: string, facts: RolloutFacts, stay: RolloutStep): RolloutStep => {
  const { progress } = rollout;
  switch (progress.state) {
    case 'draft':
    case 'awaiting-approval':
    case 'scheduled':
      return abort(rollout, by, 'its release was withdrawn', facts, stay);
    case 'running':
    case 'paused':
      return halt(rollout, progress, { kind: 'release-withdrawn', by }, facts);
    case 'halted':
      // Whatever halted it, from now on it must not be resumed.
      return progress.reason.kind === 'release-withdrawn'
        ? stay
        : halt(rollout, progress, { kind: 'release-withdrawn', by }, facts);
    case 'completed':
    case 'aborted':
      return stay;
    default:
      return unreachable(progress);
  }
};

/** Absent rather than empty: most rollouts never have anything to acknowledge. */
const kept = (acknowledged: Acknowledged[] | undefined): { acknowledged?: Acknowledged[] } =>
  acknowledged === undefined || acknowledged.length === 0 ? {} : { acknowledged };

/**
 * What an agent says about its deployment, turned into the server's belief. Pure and forgiving: a report may come late,
 * twice, or out of order, and then changes nothing. `docs/states.md` repeats the table below, and a test holds it
 * there.
 */
import type { AgentState, DeploymentState, DeviceError, Outcome } from '#shared/deployment.ts';
import type { Millis } from '#shared/ids.ts';
import type { Policy } from '#shared/policy.ts';
import { type AuditEvent, byDevice } from '../audit.ts';
import { deadlineOf, readyWithinMs } from './deadline.ts';
import { type Attempts, type DeploymentRecord, HELD_FOR_COMMAND } from './deployment.ts';
import { isOver, retryOf, returnOf } from './retry.ts';

/**
 * Either what a state report says (`state`), or what a receipt says whose signature was verified (`outcome`). Both fit
 * as they are.
 */
export type DeviceReport =
  | { state: AgentState; error?: DeviceError | undefined; attempt?: number | undefined }
  | { outcome: Outcome; error?: DeviceError | undefined; attempt?: number | undefined };

export type DeploymentStep = {
  /** The very same object when nothing changes. `revision` is left alone: the store counts it. */
  next: DeploymentRecord;
  audit: AuditEvent[];
};

/** States that a device's report can lead to. */
export type ToldState = Exclude<DeploymentState, 'planned' | 'skipped' | 'overdue'>;

/**
 * An agent state, seen from the server. From `activating` on the release may boot, so the server counts it as on trial
 * and no longer withdraws it. An agent that says `committed` without its receipt stays on trial: good news needs proof,
 * bad news does not.
 */
export const TOLD: Record<AgentState, ToldState> = {
  accepted: 'offered',
  waiting: 'offered',
  fetching: 'fetching',
  verified: 'installing',
  ready: 'ready',
  activating: 'trial',
  trial: 'trial',
  committing: 'trial',
  committed: 'trial',
  reverting: 'trial',
  'verifying-revert': 'trial',
  reverted: 'reverted',
  failed: 'failed',
  withdrawn: 'withdrawn',
};

/** From each state, where a device's report may lead. Whatever is not listed is ignored. */
export const MOVES: Record<DeploymentState, readonly ToldState[]> = {
  // Nothing was offered: no report of the device can be about this deployment. After a halt: see `movesOf`.
  planned: [],
  // Onward only: an agent that starts over is still shown as far as it once came, and what may have booted is never
  // taken for safe again.
  offered: ['fetching', 'installing', 'ready', 'trial', 'committed', 'reverted', 'failed', 'withdrawn'],
  fetching: ['installing', 'ready', 'trial', 'committed', 'reverted', 'failed', 'withdrawn'],
  installing: ['ready', 'trial', 'committed', 'reverted', 'failed', 'withdrawn'],
  ready: ['trial', 'committed', 'reverted', 'failed', 'withdrawn'],
  trial: ['committed', 'reverted', 'failed', 'withdrawn'],
  // A late regression: the device moves from the healthy to the failed.
  committed: ['reverted', 'failed'],
  reverted: [],
  failed: [],
  // The withdrawal came too late for a device that had activated. Its earlier reports, still on their way, are ignored.
  withdrawn: ['trial', 'committed', 'reverted', 'failed'],
  // Silent: only an outcome counts, since the time for mere progress is over. Never heard, or stuck: see `movesOf`.
  overdue: ['committed', 'reverted', 'failed', 'withdrawn'],
  // Nor was it here.
  skipped: [],
};

/**
 * A device that was never heard has not used up any time: its late acceptance starts its clock as an early one would
 * have.
 */
const NEVER_HEARD_MOVES: readonly ToldState[] = ['offered', ...MOVES.offered];
/** It withdraws because it was told to when its time was over: that excuses no one who was there all the time. */
const STUCK_MOVES: readonly ToldState[] = MOVES.overdue.filter((state) => state !== 'withdrawn');

const movesOf = (deployment: DeploymentRecord): readonly ToldState[] =>
  // Planned again, after another rollout took it over or a halt: it may have activated before it heard of that.
  deployment.state === 'planned' && deployment.offeredAt !== null
    ? MOVES.withdrawn
    : deployment.overdue === 'never-heard'
      ? NEVER_HEARD_MOVES
      : deployment.overdue === 'stuck'
        ? STUCK_MOVES
        : MOVES[deployment.state];

const isDecided = (state: ToldState): boolean =>
  state === 'committed' || state === 'reverted' || state === 'failed' || state === 'withdrawn';

/** The first report that the agent acts on the offer. A device that only says it heard the withdrawal never acted. */
const acceptanceOf = (deployment: DeploymentRecord, told: ToldState, now: Millis): Millis | null =>
  deployment.acceptedAt ?? (told === 'withdrawn' ? null : now);

/** Until when the device's instruction lets it begin to install, and activate; null where it may do so now. */
export type WaitUntil = { install: Millis | null; activate: Millis | null };
const NO_WAIT: WaitUntil = { install: null, activate: null };

/** A device that waits, as it was told to, has its time from when it may go on. */
const heldOf = (
  told: ToldState,
  held: WaitUntil,
  { deadlines }: Pick<Policy, 'deadlines'>,
): { heldUntil: Millis; deadlineAt: Millis | null } | undefined => {
  if (told === 'offered' && held.install !== null)
    return { heldUntil: held.install, deadlineAt: held.install + deadlines.acceptMs };
  if (told !== 'ready' || held.activate === null) return undefined;
  const forCommand = held.activate === HELD_FOR_COMMAND;
  return { heldUntil: held.activate, deadlineAt: forCommand ? null : held.activate + readyWithinMs(deadlines) };
};

/** Its user, or a program of theirs, has it wait. */
const isDeferred = ({ state }: DeploymentRecord, report: DeviceReport): boolean =>
  state === 'offered' && 'state' in report && report.state === 'waiting';

/** Nothing has begun, so nothing is at risk: its time runs as if it had not accepted yet. */
const defer = (deployment: DeploymentRecord, now: Millis, { deadlines }: Pick<Policy, 'deadlines'>): DeploymentStep =>
  deployment.acceptedAt === null
    ? { next: deployment, audit: [] }
    : { next: { ...deployment, acceptedAt: null, deadlineAt: now + deadlines.acceptMs }, audit: [] };

/** Back to the planned, to be offered again when its cool-down is over. */
const planAgain = (
  deployment: DeploymentRecord,
  attempts: Attempts,
  error: DeviceError | null,
  now: Millis,
): DeploymentStep => {
  const { rollout, id, device } = deployment;
  const times = { stateAt: now, acceptedAt: null, decidedAt: null, deadlineAt: null, heldUntil: null };
  const { notBefore, ended } = attempts;
  return {
    next: { ...deployment, state: 'planned', ...times, overdue: null, error, attempts },
    audit: [
      {
        at: now,
        by: byDevice(device),
        kind: 'retry-planned',
        rollout,
        deployment: id,
        device,
        ...(error === null ? {} : { error: error.code, message: error.message }),
        notBefore,
        ended,
      },
    ],
  };
};

/** Where it was withdrawn or became overdue is of no interest once it goes on. */
const withoutReached = (deployment: DeploymentRecord): DeploymentRecord => {
  if (deployment.reached === undefined) return deployment;
  const { reached: _, ...rest } = deployment;
  return rest;
};

/**
 * One report of the device, applied. `policy` is the rollout's: its deadlines run from acceptance on.
 * Reports about another deployment are the caller's to sort out.
 */
export const stepDeployment = (
  deployment: DeploymentRecord,
  report: DeviceReport,
  now: Millis,
  policy: Pick<Policy, 'deadlines' | 'retries'>,
  held: WaitUntil = NO_WAIT,
): DeploymentStep => {
  const told: ToldState = 'outcome' in report ? report.outcome : TOLD[report.state];
  if (isOver(deployment, report, told)) return { next: deployment, audit: [] };
  if (isDeferred(deployment, report) && held.install === null) return defer(deployment, now, policy);
  const accepts = deployment.state === 'offered' && told === 'offered' && deployment.acceptedAt === null;
  if (!accepts && !movesOf(deployment).includes(told)) return { next: deployment, audit: [] };

  const retry = told === 'failed' ? retryOf(deployment, report.error?.code, now, policy) : null;
  if (retry !== null) return planAgain(deployment, retry, report.error ?? null, now);
  const attempts = deployment.state === 'withdrawn' && told === 'trial' ? returnOf(deployment) : deployment.attempts;
  if (attempts === null) return { next: deployment, audit: [] };
  const waits = heldOf(told, held, policy);
  if (accepts && waits !== undefined && deployment.heldUntil === waits.heldUntil)
    return { next: deployment, audit: [] };
  // Waiting for its window it has not begun; from the wait before activation on it is at risk as of now, not of when it
  // installed.
  const isStill = waits !== undefined && told === 'offered';
  const wakes = deployment.heldUntil !== null && deployment.acceptedAt !== null && waits === undefined;
  const acceptedAt = isStill ? null : wakes && told === 'trial' ? now : acceptanceOf(deployment, told, now);
  const decided = isDecided(told);
  const stateAt = told === deployment.state ? deployment.stateAt : now;
  const next: DeploymentRecord = {
    ...(told === 'withdrawn' ? deployment : withoutReached(deployment)),
    state: told,
    stateAt,
    acceptedAt,
    decidedAt: decided ? now : null,
    deadlineAt: waits
      ? waits.deadlineAt
      : decided || acceptedAt === null
        ? null
        : deadlineOf(told, { acceptedAt, stateAt, graceUntil: deployment.graceUntil }, policy.deadlines),
    heldUntil: waits?.heldUntil ?? null,
    overdue: null,
    ...(attempts === undefined ? {} : { attempts }),
    error: told === 'reverted' || told === 'failed' ? (report.error ?? null) : null,
  };
  if (told === deployment.state) return { next, audit: [] };
  const moved: AuditEvent = {
    at: now,
    by: byDevice(deployment.device),
    kind: 'deployment-moved',
    rollout: deployment.rollout,
    deployment: deployment.id,
    device: deployment.device,
    from: deployment.state,
    to: told,
    ...(next.error === null ? {} : { error: next.error.code, message: next.error.message }),
  };
  return { next, audit: [moved] };
};

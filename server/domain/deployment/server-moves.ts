/**
 * What the server does to deployments: it offers them, skips them, takes them back, gives them up, and plans them
 * again. What a device's reports do is in deployment-step.ts. Pure: the store selects whom a move is for, and saves
 * what comes out. `docs/states.md` repeats the table, and a test holds it there.
 */
import { inBatches } from '#shared/batches.ts';
import type { DeploymentState, OverdueClass } from '#shared/deployment.ts';
import type { Id, Millis, Sha256 } from '#shared/ids.ts';
import { type AuditEvent, BY_SERVER } from '../audit.ts';
import { HEARD_WITHIN_MS } from './deadline.ts';
import { type DeploymentRecord, NOT_ACTIVATED, OWNING, offersOf } from './deployment.ts';

/**
 * From which states each move leads where. A trial is left to finish, unless no report of its device counts any more.
 */
export const SERVER_MOVES = {
  offer: { from: ['planned'], to: 'offered' },
  skip: { from: ['planned'], to: 'skipped' },
  withdraw: { from: NOT_ACTIVATED, to: 'withdrawn' },
  'withdraw planned': { from: ['planned'], to: 'withdrawn' },
  'shut out': { from: ['planned', ...OWNING], to: 'withdrawn' },
  replace: { from: OWNING, to: 'withdrawn' },
  replan: { from: ['withdrawn'], to: 'planned' },
  'take over': { from: NOT_ACTIVATED, to: 'planned' },
  'give up': { from: OWNING, to: 'overdue' },
} as const satisfies Record<string, { from: readonly DeploymentState[]; to: DeploymentState }>;

/**
 * Why the server withdrew it: what a halt took back, and nothing else, is planned again when a person resumes. Until it
 * moves again.
 */
export type WithdrawnBy = 'halt' | 'abort' | 'rejection' | 'replacement';

/** The next state of one deployment. Its revision is that of the state before, which the store counts on. */
export type Move = { next: DeploymentRecord; withdrawnBy?: WithdrawnBy };
export type Moved = { moves: Move[]; audit: AuditEvent[] };

/** A line of the audit log names no more devices than this. */
const DEVICES_PER_LINE = 500;
const linesFor = (deployments: readonly DeploymentRecord[], event: (devices: Id[]) => AuditEvent): AuditEvent[] =>
  inBatches(deployments, DEVICES_PER_LINE).map((batch) => event(batch.map(({ device }) => device)));
/** Each line names one rollout. */
const linesByRollout = (
  deployments: readonly DeploymentRecord[],
  event: (rollout: Id, devices: Id[]) => AuditEvent,
): AuditEvent[] =>
  [...Map.groupBy(deployments, ({ rollout }) => rollout)].flatMap(([rollout, theirs]) =>
    linesFor(theirs, (devices) => event(rollout, devices)),
  );

/** The device gets the offer. Until it says that it acts on it, it is expected to do so by `acceptBy`. */
export const offer = (
  deployments: readonly DeploymentRecord[],
  { acceptBy, wave, decision }: { acceptBy: Millis; wave: number; decision?: Sha256 | undefined },
  now: Millis,
): Moved => ({
  moves: deployments.map((deployment) => {
    const { offers: _, ...rest } = deployment;
    const offers = offersOf(deployment) + 1;
    const times = { stateAt: now, offeredAt: now, acceptedAt: null, deadlineAt: acceptBy };
    return { next: { ...rest, state: 'offered', ...times, ...(offers > 1 ? { offers } : {}) } };
  }),
  audit: linesByRollout(deployments, (rollout, devices) => ({
    at: now,
    by: BY_SERVER,
    kind: 'offered',
    rollout,
    wave,
    devices,
    ...(decision === undefined ? {} : { decision }),
  })),
});

/** The device runs the release already. */
export const skip = (deployments: readonly DeploymentRecord[], now: Millis): Moved => ({
  moves: deployments.map((deployment) => ({
    next: { ...deployment, state: 'skipped', stateAt: now, decidedAt: now },
  })),
  audit: linesByRollout(deployments, (rollout, devices) => ({
    at: now,
    by: BY_SERVER,
    kind: 'skipped',
    rollout,
    devices,
  })),
});

/** Ended by the server, whatever the device did so far. `reason` is for people. */
export const withdraw = (
  deployments: readonly DeploymentRecord[],
  { by, reason }: { by: WithdrawnBy; reason: string },
  now: Millis,
): Moved => ({
  moves: deployments.map((deployment) => ({
    next: {
      ...deployment,
      state: 'withdrawn',
      reached: deployment.state,
      stateAt: now,
      decidedAt: now,
      deadlineAt: null,
      heldUntil: null,
    },
    withdrawnBy: by,
  })),
  audit: linesByRollout(deployments, (rollout, devices) => ({
    at: now,
    by: BY_SERVER,
    kind: 'withdrawn',
    rollout,
    devices,
    reason,
  })),
});

/** The rollout ends before these were offered: no device knows of them, so none is named in the log. */
export const withdrawPlanned = (deployments: readonly DeploymentRecord[], now: Millis): Moved => ({
  moves: deployments.map((deployment) => ({
    next: { ...deployment, state: 'withdrawn', stateAt: now, decidedAt: now },
  })),
  audit: [],
});

/**
 * Plans again what a halt withdrew. When it was offered and accepted is kept until the next offer: a device that had
 * activated all the same may still say so, and one that had begun to fetch was not untouched.
 */
export const replan = (deployments: readonly DeploymentRecord[], now: Millis): Moved => ({
  moves: deployments.map((deployment) => ({
    next: { ...deployment, state: 'planned', stateAt: now, decidedAt: null },
  })),
  audit: linesByRollout(deployments, (rollout, devices) => ({
    at: now,
    by: BY_SERVER,
    kind: 'replanned',
    rollout,
    devices,
  })),
});

/**
 * A rollout that comes first takes the devices of these, which are planned again, to be offered when it is done with
 * them. When they were offered stays: an activation that the withdrawal comes too late for is still believed.
 */
export const takeOver = (deployments: readonly DeploymentRecord[], first: Id, now: Millis): Moved => ({
  moves: deployments.map((deployment) => ({
    next: {
      ...deployment,
      state: 'planned',
      stateAt: now,
      acceptedAt: null,
      decidedAt: null,
      deadlineAt: null,
      heldUntil: null,
    },
  })),
  audit: linesByRollout(deployments, (rollout, devices) => ({
    at: now,
    by: BY_SERVER,
    kind: 'taken-over',
    rollout,
    for: first,
    devices,
  })),
});

/** What the server knows of a device whose time is over. */
export type Heard = { online: boolean; lastSeenAt: Millis | null };

/**
 * `never-heard` when nothing was accepted; `stuck` when the device is connected, and was heard since, and lately;
 * `silent` otherwise.
 */
const overdueClassOf = (
  { acceptedAt, stateAt }: Pick<DeploymentRecord, 'acceptedAt' | 'stateAt'>,
  { online, lastSeenAt }: Heard,
  now: Millis,
): OverdueClass => {
  if (acceptedAt === null) return 'never-heard';
  const isThere = online && lastSeenAt !== null && lastSeenAt > stateAt && lastSeenAt >= now - HEARD_WITHIN_MS;
  return isThere ? 'stuck' : 'silent';
};

/** Past their deadline, in groups that are told and logged alike. */
export const giveUp = (
  late: readonly { deployment: DeploymentRecord; heard: Heard }[],
  by: string,
  now: Millis,
): (Moved & { reason: string })[] => {
  const classed = late.map(({ deployment, heard }) => ({
    deployment,
    overdue: overdueClassOf(deployment, heard, now),
  }));
  const groups = Map.groupBy(classed, ({ deployment, overdue }) => `${overdue} in ${deployment.state}`);
  return [...groups].map(([alike, group]) => {
    const { overdue, deployment: first } = group[0]!;
    const deployments = group.map(({ deployment }) => deployment);
    return {
      reason: `overdue: ${alike}`,
      moves: deployments.map((deployment) => ({
        next: {
          ...deployment,
          state: 'overdue',
          overdue,
          reached: deployment.state,
          stateAt: now,
          decidedAt: now,
          deadlineAt: null,
          heldUntil: null,
        },
      })),
      audit: linesByRollout(deployments, (rollout, devices) => ({
        at: now,
        by,
        kind: 'overdue',
        rollout,
        class: overdue,
        reached: first.state,
        devices,
      })),
    };
  });
};

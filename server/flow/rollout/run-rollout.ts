/**
 * Moves one rollout on: load, step, save. Everything that the step decided is recorded in one transaction; the outbox
 * does the rest.
 */

import { auditLine, BY_SERVER } from '#server/domain/audit.ts';
import { binMsOf } from '#server/domain/deployment/deployment.ts';
import { namedIn, stillAcknowledged } from '#server/domain/rollout/acknowledge.ts';
import { changesNothing } from '#server/domain/rollout/decision.ts';
import { recalledOf } from '#server/domain/rollout/recall.ts';
import type { RolloutPlan } from '#server/domain/rollout/rollout.ts';
import type { Offer, RolloutEvent, RolloutFacts } from '#server/domain/rollout/rollout-events.ts';
import { stepRollout } from '#server/domain/rollout/rollout-step.ts';
import type { ReleaseRecord } from '#server/store/catalogue.ts';
import type { InstructionTemplate, OfferRequest, RolloutRecord } from '#server/store/rollouts.ts';
import type { Store } from '#server/store/store.ts';
import type { Id } from '#shared/ids.ts';
import { accept, type Result, refuse } from '#shared/problems.ts';
import { activateAtOf, confirmOf, keepTime, type RolloutTime, shutAbove, timeOf } from '../time/rollout-time.ts';
import { decide } from './decide.ts';
import { enactRecall } from './enact-recall.ts';
import { followCohorts } from './follow-cohorts.ts';
import { watchCommitted } from './watch-committed.ts';

/** Another writer can win a few times in a row, but not forever: each time someone made progress. */
const ATTEMPTS_MAX = 16;
/** Steps that are due at once: started, wave opened, offered. */
const STEPS_MAX = 4;
/** How often the clock looks at what is due. */
export const CLOCK_MS = 1_000;
const OVERDUE_PAGE = 1_000;
const OVERDUE_PAGES_MAX = 200;

export type RunDeps = { store: Store; now: () => number };

/**
 * What is due of this rollout: deadlines first, then ticks until nothing more is due now. Safe to call at any time, and
 * by several at once. Refusal: `not-found`.
 */
export const runRollout = async (deps: RunDeps, id: Id): Promise<Result<RolloutRecord>> => {
  await markAllOverdue(deps, id);
  await watchCommitted(deps, id);
  await keepTime(deps, id);
  await followCohorts(deps, id);
  await enactRecall(deps, id);
  let result = await applyEvent(deps, id, { kind: 'tick' });
  for (let step = 1; step < STEPS_MAX && result.ok && isDue(result.value, deps.now()); step += 1) {
    // Before the tick that lets it rest: until then a crash leaves it due.
    await enactRecall(deps, id);
    result = await applyEvent(deps, id, { kind: 'tick' });
  }
  return result;
};

const isDue = (rollout: RolloutRecord, now: number): boolean =>
  rollout.nextTickAt !== null && rollout.nextTickAt <= now;

/**
 * It asks to be looked at within a second, which the clock does with all that are due, and was due before that already.
 */
const staysDue = ({ nextTickAt: before }: RolloutRecord, nextTickAt: number | null, now: number): boolean =>
  before !== null && nextTickAt !== null && before <= nextTickAt && nextTickAt <= now + CLOCK_MS;

/**
 * One event applied to the newest record, again when someone else was faster. Refusals: `not-found`, and what the step
 * refuses.
 */
export const applyEvent = async (deps: RunDeps, id: Id, event: RolloutEvent): Promise<Result<RolloutRecord>> => {
  for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
    const record = await deps.store.getRollout(id);
    if (record === undefined) return refuse('not-found', `there is no rollout ${id}`);
    const { plan } = record;
    const release = await deps.store.getRelease(plan.product, plan.version);
    if (release === undefined)
      throw new Error(`rollout ${id} is of ${plan.product}@${plan.version}, which is not there`);
    const { facts, time } = await factsNow(deps, record);
    const { now } = facts;
    const rollout = { ...plan, progress: record.progress };
    const happened = eventNow(event, release);
    const step = stepRollout(rollout, happened, facts);
    if (step.refused !== null) return step.refused;
    // A rollout that rests or waits is not written again and again.
    if (step.next === rollout && step.nextTickAt === record.nextTickAt) return accept(record);
    if (staysDue(record, step.nextTickAt, now) && changesNothing(rollout, step))
      return accept({ ...record, nextTickAt: step.nextTickAt });
    const { activatedAt } = step.next;
    const nextPlan = activatedAt === undefined ? plan : { ...plan, activatedAt };
    const next = { ...record, plan: nextPlan, progress: step.next.progress, nextTickAt: step.nextTickAt };
    const decided = decide(record.decided, rollout, happened, facts, step);
    const shut = step.offers.length === 0 ? [] : await shutAbove(deps.store, id, now);
    const saved = await deps.store.saveRollout({
      rollout: next,
      offers: step.offers.map((offer) => ({
        ...offer,
        ...zonesOf(time, offer),
        ...(shut.length === 0 ? {} : { shutAbove: shut }),
        ...decided.mark,
        instruction: { ...instructionOf(release, plan.id, offer), ...activationOf(nextPlan, now) },
      })),
      withdraw: step.withdraw,
      ...(step.activate === true ? { activate: true } : {}),
      replan: step.replan,
      audit: step.audit.map((line) => auditLine({ ...line, ...decided.mark })),
      ...decided.kept,
      now,
    });
    if (saved.result === 'saved') return accept({ ...next, revision: record.revision + 1 });
  }
  return refuse('conflict', `rollout ${id} changes all the time; try again in a moment`);
};

/**
 * All that has to be known to decide about a rollout at this moment; `time`: what its devices are to be told of
 * windows.
 */
export const factsNow = async (
  { store, now }: RunDeps,
  record: RolloutRecord,
): Promise<{ facts: RolloutFacts; time: RolloutTime | undefined }> => {
  const bins = await store.getOutcomeBins(record.plan.id, binMsOf(record.plan.policy));
  const at = now();
  const time = await timeOf(store, record.plan, at);
  const facts: RolloutFacts = {
    now: at,
    bins,
    ...(await acknowledgedNow(store, record)),
    ...(time === undefined ? {} : { windows: time.facts }),
    ...(recalledOf(record.progress) === undefined
      ? {}
      : { goingBack: (await store.listRecalls(record.plan.id)).length }),
  };
  return { facts, time };
};

/** Acknowledged failures are named, so they are looked at one by one. */
const acknowledgedNow = async (
  store: Pick<Store, 'getDeployments'>,
  { progress }: RolloutRecord,
): Promise<Pick<RolloutFacts, 'acknowledged'>> => {
  const acknowledged = 'acknowledged' in progress ? (progress.acknowledged ?? []) : [];
  const names = namedIn(acknowledged);
  if (names.length === 0) return {};
  return { acknowledged: stillAcknowledged(acknowledged, await store.getDeployments(names)) };
};

/** A withdrawn release halts its rollouts even when the server stopped between the withdrawal and the halt. */
const eventNow = (event: RolloutEvent, { progress }: ReleaseRecord): RolloutEvent =>
  event.kind === 'tick' && progress.state === 'withdrawn' ? { kind: 'release-withdrawn', by: progress.by } : event;

const zonesOf = (time: RolloutTime | undefined, { cohort }: Offer): Pick<OfferRequest, 'zones'> => {
  const zones = time?.open.get(cohort);
  return zones === undefined ? {} : { zones };
};
const activationOf = (plan: RolloutPlan, now: number): Pick<InstructionTemplate, 'activateAt' | 'confirm'> => {
  const activateAt = activateAtOf(plan, now);
  return { ...(activateAt === undefined ? {} : { activateAt }), ...confirmOf(plan) };
};

const instructionOf = (release: ReleaseRecord, rollout: Id, { compatible }: Offer): InstructionTemplate => {
  const bundle = release.bundles.find((candidate) => candidate.compatible === compatible);
  if (bundle === undefined)
    throw new Error(`rollout ${rollout} has devices that are ${compatible}, its release has no bundle`);
  return {
    kind: 'install',
    rollout,
    product: bundle.product,
    version: bundle.version,
    compatible,
    securityCounter: bundle.manifest.securityCounter,
    path: bundle.path,
    sha256: bundle.manifestSha256,
    length: bundle.manifestBytes,
  };
};

/** Silent devices count before anything is decided, in pieces that leave the database to others in between. */
const markAllOverdue = async (deps: RunDeps, rollout: Id): Promise<void> => {
  const now = deps.now();
  const stamp = { kind: 'overdue' as const, rollout, by: BY_SERVER };
  for (let page = 0; page < OVERDUE_PAGES_MAX; page += 1) {
    const marked = await deps.store.markOverdue(rollout, now, OVERDUE_PAGE, stamp);
    if (marked.length < OVERDUE_PAGE) return;
  }
};

/** One rollout from its start to its end on a virtual clock. Every decision is `stepRollout`'s, as in the server. */

import { Id, type Millis } from '#shared/ids.ts';
import { CohortPlan } from '#shared/policy.ts';
import { binMsOf } from '../domain/deployment/deployment.ts';
import type { Rollout } from '../domain/rollout/rollout.ts';
import { stepRollout } from '../domain/rollout/rollout-step.ts';
import { planWaves } from '../domain/rollout/waves.ts';
import type { FleetModel, RunOutcome, Trial } from './model.ts';
import { randomOf } from './random.ts';
import { SIMULATED, type VirtualFleet, virtualFleet } from './virtual-fleet.ts';

const MINUTE_MS = 60_000;
/**
 * Ticks of a real rollout are a second apart. Offers come in windows of six seconds, and outcomes after minutes:
 * nothing is lost.
 */
const TICK_MS = 6_000;
/** While the judge waits for evidence, or everyone for outcomes: a fifth of an age bin of the default policy. */
const WAITING_TICK_MS = 12_000;
/** No run goes on forever: about two weeks in which something happens at every tick. */
const STEPS_MAX = 200_000;
const DECIDED_SHARE = 0.99;

/** The rollout of a trial, planned as the server plans it, and scheduled for the virtual time 0. */
export const planTrial = ({ policy, waves }: Trial, devices: number): Rollout => {
  const plan = CohortPlan.parse({ cohort: SIMULATED, waves });
  const members = Array.from({ length: devices }, (_, n) => ({ id: Id.parse(`d${n}`), compatible: SIMULATED }));
  return {
    id: SIMULATED,
    product: SIMULATED,
    version: '1.0.0',
    channel: SIMULATED,
    cohorts: [plan],
    policy,
    waveSizes: planWaves([{ plan, devices: members }], SIMULATED).waveSizes,
    createdAt: 0,
    createdBy: SIMULATED,
    progress: { state: 'scheduled', startAt: 0 },
  };
};

/** The same seed and run, the same outcome. */
export const runOnce = (planned: Rollout, model: FleetModel, seed: number, run: number): RunOutcome => {
  const fleet = virtualFleet(model, planned, randomOf(seed, run));
  let rollout = planned;
  let minutesTo99: number | null = null;
  let now: Millis = 0;
  for (let steps = 0; steps < STEPS_MAX; steps++) {
    fleet.pass(now);
    if (minutesTo99 === null && fleet.counted.decided >= DECIDED_SHARE * model.devices) minutesTo99 = now / MINUTE_MS;
    const step = stepRollout(rollout, { kind: 'tick' }, { now, bins: fleet.bins() });
    rollout = step.next;
    for (const { wave, atMost } of step.offers) fleet.offer(wave, atMost, now);
    const { state } = rollout.progress;
    if (state === 'halted' || state === 'completed') break;
    now = nextTick(rollout, step.offers.length > 0 || steps === 0, fleet, now);
  }
  const { exposed, harmed } = fleet.counted;
  return { exposed, harmed, halted: rollout.progress.state === 'halted', minutesTo99 };
};

/**
 * Ticks at which nothing can have changed are left out: no device spoke, no one grew a bin older, and no limit ended.
 */
const nextTick = (rollout: Rollout, isBusy: boolean, fleet: VirtualFleet, now: Millis): Millis => {
  const hold = rollout.progress.state === 'running' ? rollout.progress.hold : null;
  if (isBusy || hold?.kind === 'rate-limit') return now + TICK_MS;
  const binMs = binMsOf(rollout.policy);
  const wakes = [(Math.floor(now / binMs) + 1) * binMs, fleet.nextAt()];
  if (hold?.kind === 'gate') wakes.push(hold.soakEndsAt);
  const due = Math.min(...wakes.filter((at) => at !== null));
  return Math.max(now + WAITING_TICK_MS, Math.ceil(due / TICK_MS) * TICK_MS);
};

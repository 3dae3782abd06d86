/**
 * A fleet in memory: does with a rollout's decisions what store, agents and clock would do. For tests of the domain
 * alone.
 */

import type { z } from 'zod';
import { binMsOf, countOutcomes, type DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { stepDeployment } from '#server/domain/deployment/deployment-step.ts';
import type { Rollout } from '#server/domain/rollout/rollout.ts';
import type { RolloutEvent, RolloutStep } from '#server/domain/rollout/rollout-events.ts';
import { stepRollout } from '#server/domain/rollout/rollout-step.ts';
import { planWaves } from '#server/domain/rollout/waves.ts';
import { Id } from '#shared/ids.ts';
import { CohortPlan, Policy } from '#shared/policy.ts';

/**
 * What becomes of an offer: after `acceptMs` the device accepts, `outcomeMs` later it says how it went. Null: it never
 * does.
 */
export type Behaviour = { acceptMs: number | null; outcomeMs: number | null; outcome: 'committed' | 'reverted' };
export const GOOD: Behaviour = { acceptMs: 1_000, outcomeMs: 60_000, outcome: 'committed' };
export const BAD: Behaviour = { acceptMs: 1_000, outcomeMs: 60_000, outcome: 'reverted' };
export const SILENT: Behaviour = { acceptMs: 1_000, outcomeMs: null, outcome: 'reverted' };
export const OFFLINE: Behaviour = { acceptMs: null, outcomeMs: null, outcome: 'committed' };

export const START = 1_800_000_000_000;
const WITHDRAWABLE = new Set(['offered', 'fetching', 'installing', 'ready']);

/** A policy under which little time passes. */
export const QUICK = { gate: { soakMs: 30_000 }, deadlines: { outcomeMs: 600_000 } };

export const fleetOf = (options: {
  devices: number;
  behaviour: (n: number) => Behaviour;
  waves?: z.input<typeof CohortPlan>['waves'];
  policy?: z.input<typeof Policy>;
  compatible?: (n: number) => string;
}) => {
  const policy = Policy.parse(options.policy ?? {});
  const plan = CohortPlan.parse({ cohort: 'all', ...(options.waves ? { waves: options.waves } : {}) });
  const members = Array.from({ length: options.devices }, (_, n) => ({
    id: Id.parse(`gw-${n}`),
    compatible: Id.parse(options.compatible?.(n) ?? 'gw2'),
  }));
  const waves = planWaves([{ plan, devices: members }], 'r-1');
  const id = Id.parse('r-1');
  let now = START;
  let rollout: Rollout = {
    id,
    product: Id.parse('gateway'),
    version: '1.4.0',
    channel: Id.parse('production'),
    cohorts: [plan],
    policy,
    waveSizes: waves.waveSizes,
    createdAt: START,
    createdBy: 'alice',
    progress: { state: 'scheduled', startAt: START },
  };
  let deployments = waves.placements.map(
    ({ device, cohort, compatible, wave, position }): DeploymentRecord => ({
      id: Id.parse(`d-${device}`),
      rollout: id,
      device,
      cohort,
      compatible,
      wave,
      position,
      state: 'planned',
      offeredAt: null,
      acceptedAt: null,
      decidedAt: null,
      stateAt: START,
      deadlineAt: null,
      overdue: null,
      heldUntil: null,
      error: null,
      revision: 1,
    }),
  );
  const steps: RolloutStep[] = [];
  /** Withdrawn by a halt. */
  const taken = new Set<Id>();

  const offer = (step: RolloutStep): void => {
    for (const { wave, cohort, compatible, atMost, acceptBy } of step.offers) {
      const chosen = new Set(
        deployments
          .filter((d) => d.state === 'planned' && d.wave === wave && d.cohort === cohort && d.compatible === compatible)
          .slice(0, atMost)
          .map((d) => d.id),
      );
      deployments = deployments.map((d) =>
        chosen.has(d.id)
          ? { ...d, state: 'offered', offeredAt: now, acceptedAt: null, stateAt: now, deadlineAt: acceptBy }
          : d,
      );
    }
  };
  const withdraw = ({ withdraw: order }: RolloutStep): void => {
    if (order === null) return;
    if (!order.planned) for (const d of deployments) if (WITHDRAWABLE.has(d.state)) taken.add(d.id);
    deployments = deployments.map((d) =>
      WITHDRAWABLE.has(d.state) || (order.planned && d.state === 'planned')
        ? { ...d, state: 'withdrawn', stateAt: now, decidedAt: now, deadlineAt: null }
        : d,
    );
  };
  const replan = (step: RolloutStep): void => {
    if (!step.replan) return;
    deployments = deployments.map((d) =>
      d.state === 'withdrawn' && taken.has(d.id) ? { ...d, state: 'planned', stateAt: now, decidedAt: null } : d,
    );
    taken.clear();
  };
  const devicesSpeak = (): void => {
    deployments = deployments.map((d) => {
      const { acceptMs, outcomeMs, outcome } = options.behaviour(Number(d.device.slice(3)));
      if (d.state === 'offered' && acceptMs !== null && now >= d.offeredAt! + acceptMs) {
        return stepDeployment(d, { state: 'trial' }, now, policy).next;
      }
      if (d.state === 'trial' && outcomeMs !== null && now >= d.acceptedAt! + outcomeMs) {
        return stepDeployment(d, { outcome }, now, policy).next;
      }
      return d;
    });
  };
  const markOverdue = (): void => {
    deployments = deployments.map((d) =>
      d.deadlineAt !== null && now >= d.deadlineAt
        ? {
            ...d,
            state: 'overdue',
            overdue: d.acceptedAt === null ? 'never-heard' : 'silent',
            stateAt: now,
            decidedAt: now,
            deadlineAt: null,
          }
        : d,
    );
  };

  return {
    get rollout() {
      return rollout;
    },
    get deployments() {
      return deployments;
    },
    get now() {
      return now;
    },
    /** Every step taken so far, oldest first. */
    steps,
    /** One event, decided and performed. */
    happen(event: RolloutEvent): RolloutStep {
      const step = stepRollout(rollout, event, { now, bins: countOutcomes(deployments, binMsOf(policy)) });
      steps.push(step);
      rollout = step.next;
      offer(step);
      withdraw(step);
      replan(step);
      return step;
    },
    /**
     * Time passes, devices speak, deadlines are kept, the rollout ticks; at most `ticksMax` times, until it ends or
     * `until` says so.
     */
    run(until: () => boolean = () => false, ticksMax = 5_000, tickMs = 1_000): void {
      for (let tick = 0; tick < ticksMax; tick++) {
        const { state } = rollout.progress;
        if (state === 'completed' || state === 'aborted' || state === 'halted' || until()) return;
        this.happen({ kind: 'tick' });
        this.pass(tickMs);
      }
    },
    /** Time passes without a tick. */
    pass(ms: number): void {
      now += ms;
      devicesSpeak();
      markOverdue();
    },
    count(...states: DeploymentRecord['state'][]): number {
      return deployments.filter((d) => states.includes(d.state)).length;
    },
    /** Something else moves a deployment. */
    becomes(id: Id, state: DeploymentRecord['state']): void {
      deployments = deployments.map((d) => (d.id === id ? { ...d, state, stateAt: now } : d));
    },
    /** One device says something now. */
    says(n: number, word: Parameters<typeof stepDeployment>[1]): void {
      deployments = deployments.map((d) => (d.device === `gw-${n}` ? stepDeployment(d, word, now, policy).next : d));
    },
    audit: () => steps.flatMap((step) => step.audit),
  };
};

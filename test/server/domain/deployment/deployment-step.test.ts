/* oxlint-disable vitest/expect-expect -- a property asserts by what it returns to fc.assert */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { countOutcomes, type DeploymentRecord, outcomeOf } from '#server/domain/deployment/deployment.ts';
import { type DeviceReport, MOVES, stepDeployment } from '#server/domain/deployment/deployment-step.ts';
import { AGENT_STATES, type AgentState, DEPLOYMENT_STATES, OUTCOMES } from '#shared/deployment.ts';
import { Id } from '#shared/ids.ts';
import { Policy } from '#shared/policy.ts';

const policy = Policy.parse({ deadlines: { outcomeMs: 600_000 } });
const T0 = 1_800_000_000_000;

const deploymentIn = (state: DeploymentRecord['state'], part: Partial<DeploymentRecord> = {}): DeploymentRecord => ({
  id: Id.parse('d-1'),
  rollout: Id.parse('r-1'),
  device: Id.parse('gw-01'),
  cohort: Id.parse('all'),
  compatible: Id.parse('gw2'),
  wave: 0,
  position: 0,
  state,
  offeredAt: state === 'planned' || state === 'skipped' ? null : T0,
  acceptedAt: state === 'offered' || state === 'planned' ? null : T0 + 1_000,
  decidedAt: null,
  stateAt: T0,
  deadlineAt: state === 'offered' ? T0 + 86_400_000 : null,
  overdue: state === 'overdue' ? 'silent' : null,
  heldUntil: null,
  error: null,
  revision: 3,
  ...part,
});
/** Where a list of words leads, each said a second after the one before. */
const after = (from: DeploymentRecord, ...words: DeviceReport[]): DeploymentRecord =>
  words.reduce((deployment, word, n) => stepDeployment(deployment, word, T0 + 2_000 + n * 1_000, policy).next, from);
const states = (from: DeploymentRecord, ...words: DeviceReport[]): string[] => {
  const seen: string[] = [from.state];
  words.reduce((deployment, word) => {
    const { next } = stepDeployment(deployment, word, T0 + 2_000, policy);
    seen.push(next.state);
    return next;
  }, from);
  return seen;
};
const said = (...all: AgentState[]): DeviceReport[] => all.map((state) => ({ state }));

describe('a deployment', () => {
  test('that goes well ends with the receipt, not with the mere word', () => {
    expect(
      states(
        deploymentIn('offered'),
        ...said(
          'accepted',
          'waiting',
          'fetching',
          'verified',
          'ready',
          'activating',
          'trial',
          'committing',
          'committed',
        ),
        { outcome: 'committed' },
      ),
    ).toEqual([
      'offered',
      'offered',
      'offered',
      'fetching',
      'installing',
      'ready',
      'trial',
      'trial',
      'trial',
      'trial',
      'committed',
    ]);
  });

  test('that reverts ends with the device’s word and keeps its error', () => {
    const error = { code: 'TRIAL_CRASHED' as const, message: 'exit 1' };
    const end = after(deploymentIn('trial'), { state: 'reverting', error }, { state: 'reverted', error });
    expect(end).toMatchObject({ state: 'reverted', error, decidedAt: T0 + 3_000, deadlineAt: null });
  });

  test('is accepted with the first word, and has from then on the outcome deadline', () => {
    const accepted = after(deploymentIn('offered'), { state: 'accepted' });
    expect(accepted).toMatchObject({ state: 'offered', acceptedAt: T0 + 2_000, deadlineAt: T0 + 602_000, stateAt: T0 });
    expect(after(accepted, ...said('fetching', 'ready')).acceptedAt).toBe(T0 + 2_000);
  });

  test('keeps a deadline that was moved, however it goes on', () => {
    const moved = deploymentIn('fetching', { deadlineAt: T0 + 900_000, graceUntil: T0 + 900_000 });
    expect(after(moved, ...said('ready', 'trial')).deadlineAt).toBe(T0 + 900_000);
    // The time to accept is another matter than the time to an outcome.
    expect(after(deploymentIn('offered'), { state: 'accepted' }).deadlineAt).toBe(T0 + 602_000);
  });

  test('whose reports were all lost but the receipt is accepted and decided at once', () => {
    expect(after(deploymentIn('offered'), { outcome: 'committed' })).toMatchObject({
      state: 'committed',
      acceptedAt: T0 + 2_000,
      decidedAt: T0 + 2_000,
    });
  });

  test('that is withdrawn before the device acted was never accepted', () => {
    expect(after(deploymentIn('offered'), { state: 'withdrawn' })).toMatchObject({
      state: 'withdrawn',
      acceptedAt: null,
    });
  });

  test('tells the log of every move, once', () => {
    const step = stepDeployment(
      deploymentIn('trial'),
      { outcome: 'failed', error: { code: 'REVERT_FAILED', message: 'slot a does not boot' } },
      T0,
      policy,
    );
    expect(step.audit).toEqual([
      {
        at: T0,
        by: 'device:gw-01',
        kind: 'deployment-moved',
        rollout: 'r-1',
        deployment: 'd-1',
        device: 'gw-01',
        from: 'trial',
        to: 'failed',
        error: 'REVERT_FAILED',
        message: 'slot a does not boot',
      },
    ]);
    expect(stepDeployment(step.next, { outcome: 'failed' }, T0, policy)).toEqual({ next: step.next, audit: [] });
  });
});

describe('late reports', () => {
  test('a device that committed and then reverts is no success any more', () => {
    const end = after(deploymentIn('committed'), { outcome: 'reverted' });
    expect([end.state, outcomeOf(end)]).toEqual(['reverted', 'failed']);
  });

  test('a withdrawal that came too late: the device is on trial, then decided; its older reports are ignored', () => {
    expect(states(deploymentIn('withdrawn'), ...said('fetching', 'ready', 'trial'), { outcome: 'committed' })).toEqual([
      'withdrawn',
      'withdrawn',
      'withdrawn',
      'trial',
      'committed',
    ]);
    expect(after(deploymentIn('withdrawn', { decidedAt: T0 }), { state: 'trial' })).toMatchObject({
      decidedAt: null,
      deadlineAt: T0 + 601_000,
    });
  });

  test('a silent device that is merely still at it stays overdue; its outcome counts', () => {
    expect(states(deploymentIn('overdue'), ...said('fetching', 'trial'), { outcome: 'committed' })).toEqual([
      'overdue',
      'overdue',
      'overdue',
      'committed',
    ]);
  });

  test('a device that was never heard and now accepts has its whole time before it', () => {
    const late = deploymentIn('overdue', { overdue: 'never-heard', acceptedAt: null });
    expect(after(late, { state: 'accepted' })).toMatchObject({
      state: 'offered',
      overdue: null,
      acceptedAt: T0 + 2_000,
      deadlineAt: T0 + 602_000,
    });
  });

  test('one that is planned again was offered once: that it had activated is still believed, its progress is not', () => {
    const again = deploymentIn('planned', { offeredAt: T0, acceptedAt: T0 + 1_000 });
    expect(states(again, ...said('fetching', 'ready', 'withdrawn'))).toEqual(Array(4).fill('planned'));
    expect(states(again, { state: 'trial' }, { outcome: 'committed' })).toEqual(['planned', 'trial', 'committed']);
  });

  test('nothing is believed about a deployment that was never offered', () => {
    for (const state of ['planned', 'skipped'] as const) {
      const deployment = deploymentIn(state);
      for (const word of [...said(...AGENT_STATES), ...OUTCOMES.map((outcome) => ({ outcome }))]) {
        expect(stepDeployment(deployment, word, T0, policy).next).toBe(deployment);
      }
    }
  });
});

const anyWord: fc.Arbitrary<DeviceReport> = fc.oneof(
  fc.constantFrom(...AGENT_STATES).map((state) => ({ state })),
  fc.constantFrom(...OUTCOMES).map((outcome) => ({ outcome })),
);
const anyDeployment = fc.constantFrom(...DEPLOYMENT_STATES).map((state) => deploymentIn(state));

describe('whatever a device says', () => {
  test('saying it twice is saying it once', () => {
    fc.assert(
      fc.property(anyDeployment, anyWord, (deployment, word) => {
        const once = stepDeployment(deployment, word, T0 + 5_000, policy).next;
        const twice = stepDeployment(once, word, T0 + 9_000, policy);
        expect(twice).toEqual({ next: once, audit: [] });
        expect(twice.next).toBe(once);
      }),
    );
  });

  test('success is reached by a receipt only', () => {
    fc.assert(
      fc.property(anyDeployment, fc.array(anyWord, { maxLength: 12 }), (deployment, words) => {
        fc.pre(deployment.state !== 'committed');
        const end = after(deployment, ...words);
        const hasReceipt = words.some((word) => 'outcome' in word && word.outcome === 'committed');
        return end.state !== 'committed' || hasReceipt;
      }),
    );
  });

  test('failures stay failures, and a success only ever turns into one', () => {
    fc.assert(
      fc.property(
        fc.constantFrom('committed' as const, 'reverted' as const, 'failed' as const),
        fc.array(anyWord, { maxLength: 12 }),
        (state, words) => {
          const end = after(deploymentIn(state), ...words).state;
          return end === state || (state === 'committed' && (end === 'reverted' || end === 'failed'));
        },
      ),
    );
  });

  test('reports in any order end where the outcome says', () => {
    fc.assert(
      fc.property(
        fc.shuffledSubarray([
          'accepted',
          'fetching',
          'verified',
          'ready',
          'activating',
          'trial',
          'committing',
        ] as AgentState[]),
        fc.nat(7),
        (reports, at) => {
          const words: DeviceReport[] = said(...reports);
          words.splice(at, 0, { outcome: 'reverted' });
          return after(deploymentIn('offered'), ...words).state === 'reverted';
        },
      ),
    );
  });

  test('the record stays consistent: decided or on a deadline, accepted before both, overdue never half', () => {
    fc.assert(
      fc.property(fc.array(anyWord, { minLength: 1, maxLength: 12 }), (words) => {
        const end = after(deploymentIn('offered'), ...words);
        const outcome = outcomeOf(end);
        expect(end.deadlineAt === null).toBe(outcome !== 'undecided' && outcome !== 'unaccepted');
        expect(outcome !== 'undecided' || end.deadlineAt === end.acceptedAt! + 600_000).toBe(true);
        expect(end.decidedAt === null).toBe(outcome === 'undecided' || outcome === 'unaccepted');
        expect(end.overdue).toBeNull();
        expect(end.acceptedAt !== null || end.state === 'withdrawn' || outcome === 'unaccepted').toBe(true);
      }),
    );
  });

  test('a stuck device that withdraws when it is told to is not excused by that; its outcome counts', () => {
    const stuck = deploymentIn('overdue', { overdue: 'stuck', reached: 'installing' });
    expect(states(stuck, { state: 'withdrawn' }, { outcome: 'withdrawn' }, { outcome: 'committed' })).toEqual([
      'overdue',
      'overdue',
      'overdue',
      'committed',
    ]);
    expect(after(stuck, { outcome: 'reverted' })).not.toHaveProperty('reached');
  });

  test('every move of the table is possible, and no other', () => {
    for (const from of DEPLOYMENT_STATES) {
      const reached = new Set<string>();
      for (const word of [...said(...AGENT_STATES), ...OUTCOMES.map((outcome) => ({ outcome }))]) {
        const to = stepDeployment(deploymentIn(from), word, T0, policy).next.state;
        if (to !== from) reached.add(to);
      }
      expect([...reached].sort()).toEqual([...MOVES[from]].sort());
    }
  });
});

describe('counting outcomes', () => {
  test('groups devices by wave, outcome, start and delay', () => {
    const bins = countOutcomes(
      [
        deploymentIn('planned', { offeredAt: null }),
        deploymentIn('offered'),
        deploymentIn('offered', { acceptedAt: T0 + 61_000 }),
        deploymentIn('trial', { acceptedAt: T0 + 61_500 }),
        deploymentIn('committed', { acceptedAt: T0, decidedAt: T0 + 125_000 }),
        deploymentIn('overdue', { overdue: 'never-heard', acceptedAt: null }),
        deploymentIn('overdue'),
      ],
      60_000,
    );
    const start = T0 / 60_000;
    const common = { cohort: 'all', compatible: 'gw2', wave: 0, delayBins: null, devices: 1 };
    expect(bins).toEqual([
      { ...common, outcome: 'planned', startBin: null },
      { ...common, outcome: 'unaccepted', startBin: start },
      { ...common, outcome: 'undecided', startBin: start + 1, devices: 2 },
      { ...common, outcome: 'healthy', startBin: start, delayBins: 2 },
      { ...common, outcome: 'never-heard', startBin: start },
      { ...common, outcome: 'failed', startBin: start },
    ]);
  });
});

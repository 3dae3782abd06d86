/* oxlint-disable vitest/expect-expect -- a property asserts by what it returns to fc.assert */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { binMsOf, type OutcomeBin } from '#server/domain/deployment/deployment.ts';
import { watchEndsAt } from '#server/domain/deployment/late-regression.ts';
import { ruleOn } from '#server/domain/rollout/halting.ts';
import type { Rollout, RolloutState } from '#server/domain/rollout/rollout.ts';
import type { RolloutEvent } from '#server/domain/rollout/rollout-events.ts';
import { startLimit } from '#server/domain/rollout/rollout-run.ts';
import { stepRollout, TRANSITIONS } from '#server/domain/rollout/rollout-step.ts';
import { setAside, tallyOf } from '#server/domain/rollout/tally.ts';
import { Id } from '#shared/ids.ts';
import { Policy } from '#shared/policy.ts';
import { START } from './fleet.ts';

const policies = [
  Policy.parse({}),
  Policy.parse({ limits: { atRiskMax: 9, startsPerMinute: 50 }, gate: { successShare: 0.5, soakMs: 0 } }),
  Policy.parse({ judge: { rule: 'wave-percentage' } }),
  Policy.parse({ judge: { rule: 'percentage-after-minimum' }, gate: { successShare: 1 } }),
];
const nowBin = (policy: Policy) => Math.floor(START / binMsOf(policy));
const anyBins = (policy: Policy) =>
  fc.array(
    fc
      .record({
        compatible: fc.constantFrom('gw2', 'gw3').map((text) => Id.parse(text)),
        wave: fc.integer({ min: 0, max: 2 }),
        outcome: fc.constantFrom<OutcomeBin['outcome'][]>(
          'planned',
          'unaccepted',
          'undecided',
          'healthy',
          'failed',
          'never-heard',
          'withdrawn',
          'skipped',
        ),
        age: fc.integer({ min: 0, max: 70 }),
        delay: fc.integer({ min: 0, max: 70 }),
        devices: fc.integer({ min: 1, max: 60 }),
      })
      .map(
        ({ compatible, wave, outcome, age, delay, devices }): OutcomeBin => ({
          cohort: Id.parse('all'),
          compatible,
          wave,
          outcome,
          startBin: outcome === 'planned' || outcome === 'skipped' ? null : nowBin(policy) - age,
          delayBins: outcome === 'healthy' ? Math.min(age, delay) : null,
          devices,
        }),
      ),
    { maxLength: 20 },
  );
const wave = fc.integer({ min: 0, max: 2 });
const anyProgress: fc.Arbitrary<RolloutState> = fc.oneof(
  fc.constant<RolloutState>({ state: 'draft' }),
  fc.constant<RolloutState>({ state: 'awaiting-approval', needed: 1, approvedBy: [], startAt: 0 }),
  fc.integer({ min: -5_000, max: 5_000 }).map((ms): RolloutState => ({ state: 'scheduled', startAt: START + ms })),
  fc.record({ wave, soaked: fc.integer({ min: 0, max: 100_000 }), planned: fc.integer({ min: 0, max: 500 }) }).map(
    ({ wave, soaked, planned }): RolloutState => ({
      state: 'running',
      wave,
      waveSince: START - 200_000,
      gateSince: soaked % 2 === 0 ? null : START - soaked,
      hold: null,
      starts: { since: START - (soaked % 7_000), planned },
    }),
  ),
  wave.map((wave): RolloutState => ({ state: 'paused', wave, since: START - 1, by: 'alice', note: '' })),
  wave.map(
    (wave): RolloutState => ({
      state: 'halted',
      wave,
      since: START - 1,
      reason: { kind: 'percentage', failed: 1, decided: 2, percent: 50, limitPercent: 5 },
    }),
  ),
  fc.constant<RolloutState>({ state: 'completed', at: START - 1 }),
  fc.constant<RolloutState>({ state: 'aborted', at: START - 1, by: 'alice', note: '' }),
);
const anyEvent = fc.constantFrom<RolloutEvent[]>(
  { kind: 'tick' },
  { kind: 'tick' },
  { kind: 'pause', by: 'alice', note: '' },
  { kind: 'resume', by: 'alice', note: 'acknowledged' },
  { kind: 'abort', by: 'alice', note: '' },
  { kind: 'release-withdrawn', by: 'carol' },
);
const anySituation = fc.constantFrom(...policies).chain((policy) =>
  fc.record({
    rollout: anyProgress.map(
      (progress): Rollout => ({
        id: Id.parse('r-1'),
        product: Id.parse('gateway'),
        version: '1.4.0',
        channel: Id.parse('production'),
        cohorts: [],
        policy,
        waveSizes: [10, 20, 30],
        createdAt: START,
        createdBy: 'alice',
        progress,
      }),
    ),
    event: anyEvent,
    bins: anyBins(policy),
  }),
);

describe('whatever the facts', () => {
  test('a step leads only where the table says, and a refused one changes nothing', () => {
    fc.assert(
      fc.property(anySituation, ({ rollout, event, bins }) => {
        const step = stepRollout(rollout, event, { now: START, bins });
        const allowed = TRANSITIONS[rollout.progress.state][event.kind];
        expect(step.refused === null).toBe(allowed.length > 0);
        expect(step.refused === null ? allowed : [rollout.progress.state]).toContain(step.next.progress.state);
        if (step.refused !== null) {
          // oxlint-disable-next-line vitest/no-conditional-expect -- the other half of the claim
          expect(step).toMatchObject({ next: rollout, offers: [], withdraw: null, audit: [] });
        }
      }),
      { numRuns: 500 },
    );
  });

  test('offers are made only while running, in open waves, within plan, judge, rate and devices at risk', () => {
    fc.assert(
      fc.property(anySituation, ({ rollout, bins }) => {
        const { policy } = rollout;
        const step = stepRollout(rollout, { kind: 'tick' }, { now: START, bins });
        const progress = step.next.progress;
        if (progress.state !== 'running') return step.offers.length === 0;
        const total = step.offers.reduce((sum, { atMost }) => sum + atMost, 0);
        const tally = tallyOf(bins);
        const ruling = ruleOn(policy, setAside(bins, progress.acknowledged ?? []), START);
        if (ruling.kind === 'halt') return step.offers.length === 0;
        return (
          step.offers.every(({ wave, atMost }) => wave <= progress.wave && atMost >= 1) &&
          (total === 0 || total + tally.unaccepted + tally.undecided <= policy.limits.atRiskMax) &&
          total <= startLimit(policy.limits.startsPerMinute).perWindow &&
          ruling.grants.every(({ group, atMost }) => {
            const given = step.offers
              .filter((offer) => offer.compatible === group.compatible)
              .reduce((sum, offer) => sum + offer.atMost, 0);
            return given === 0 || given + tallyOf(group.bins).unaccepted <= atMost;
          }) &&
          step.offers.every(
            ({ wave, compatible, atMost }) =>
              atMost <= tallyOf(bins.filter((bin) => bin.wave === wave && bin.compatible === compatible)).planned,
          )
        );
      }),
      { numRuns: 500 },
    );
  });

  test('a wave opens only when someone of the one before committed, or none of it is never-heard', () => {
    fc.assert(
      fc.property(anySituation, ({ rollout, bins }) => {
        const step = stepRollout(rollout, { kind: 'tick' }, { now: START, bins });
        return step.audit
          .filter((event) => event.kind === 'wave-opened')
          .every(({ wave }) => {
            const before = tallyOf(bins.filter((bin) => bin.wave === wave - 1));
            return wave === 0 || before.healthy > 0 || before['never-heard'] === 0;
          });
      }),
      { numRuns: 1_000 },
    );
  });

  test('a next tick lies ahead, and one comes as long as anything is on its way', () => {
    fc.assert(
      fc.property(anySituation, ({ rollout, event, bins }) => {
        const step = stepRollout(rollout, event, { now: START, bins });
        const { state } = step.next.progress;
        const tally = tallyOf(bins);
        const pending = state === 'running' || tally.unaccepted + tally.undecided > 0;
        const watchedUntil = watchEndsAt(bins, binMsOf(rollout.policy), rollout.policy.watch.watchMs);
        if (!pending && watchedUntil !== null && watchedUntil > START) return step.nextTickAt !== null;
        if (state === 'scheduled') return step.nextTickAt !== null;
        if (state === 'completed') return true;
        return pending ? step.nextTickAt! >= START && step.nextTickAt! <= START + 60_000 : step.nextTickAt === null;
      }),
      { numRuns: 500 },
    );
  });

  test('no rollout sleeps through its end, whatever it waits for', () => {
    fc.assert(
      fc.property(anySituation, fc.nat(1_000_000), ({ rollout, event, bins }, ahead) => {
        const step = stepRollout({ ...rollout, endBy: START + ahead }, event, { now: START, bins });
        const { state } = step.next.progress;
        if (['draft', 'halted', 'completed', 'aborted'].includes(state)) return;
        expect(step.nextTickAt).toBeLessThanOrEqual(START + Math.max(ahead, 1_000));
      }),
      { numRuns: 500 },
    );
  });

  test('while nothing has failed and everyone is heard a tick never halts', () => {
    fc.assert(
      fc.property(anySituation, ({ rollout, bins }) => {
        fc.pre(rollout.progress.state !== 'halted');
        const healthy = bins.filter((bin) => bin.outcome !== 'failed' && bin.outcome !== 'never-heard');
        return stepRollout(rollout, { kind: 'tick' }, { now: START, bins: healthy }).next.progress.state !== 'halted';
      }),
      { numRuns: 500 },
    );
  });

  test('a halt withdraws, and says why in the log', () => {
    fc.assert(
      fc.property(anySituation, ({ rollout, event, bins }) => {
        const step = stepRollout(rollout, event, { now: START, bins });
        fc.pre(step.next.progress.state === 'halted' && rollout.progress.state !== 'halted');
        return (
          step.withdraw !== null && step.audit.some(({ kind }) => kind === 'rollout-halted') && step.offers.length === 0
        );
      }),
      { numRuns: 500 },
    );
  });
});

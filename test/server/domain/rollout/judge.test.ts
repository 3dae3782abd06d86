import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  alternatives,
  delayCurve,
  failedChance,
  type JudgeInput,
  judge,
  logEvidence,
  offerBound,
  upperBound,
  type Waiting,
  waitingOf as waitingAt,
} from '#server/domain/rollout/judge.ts';

const RULE = { limit: 0.02, alpha: 0.05, budget: 20, delta: 0.05 };

const input = (part: Partial<JudgeInput>): JudgeInput => ({
  healthy: 0,
  failed: 0,
  undecided: [],
  confirmed: [],
  ...part,
});
const waitingOf = (...late: number[]): Waiting[] => late.map((one) => ({ late: one, devices: 1 }));
describe('reference values of the rule', () => {
  test('the alternatives that the test bets on', () => {
    const published = [0.03, 0.049437, 0.081467, 0.13425, 0.22123, 0.364564, 0.600765, 0.99];
    alternatives(RULE.limit).forEach((p, k) => {
      expect(p / published[k]!).toBeCloseTo(1, 4);
    });
  });

  test.each([
    [0, 100, 0.0509341],
    [1, 1, 15.4482],
    [2, 2, 484.648],
    [2, 20, 2.18746],
    [3, 10, 99.8067],
    [3, 20, 12.7634],
    [5, 100, 1.30575],
    [8, 100, 42.0022],
    [40, 1000, 199.78],
  ])('the evidence of %i failed among %i', (failed, offered, published) => {
    expect(Math.exp(logEvidence(failed, offered, RULE.limit)) / published).toBeCloseTo(1, 4);
  });

  test.each([
    [5, 2],
    [10, 3],
    [20, 4],
    [50, 6],
    [100, 8],
    [200, 12],
    [500, 22],
    [1000, 37],
    [2000, 62],
    [5000, 136],
    [10_000, 259],
  ])('among %i offered, %i failures are the fewest that halt on evidence', (offered, fewest) => {
    const halts = (failed: number) => logEvidence(failed, offered, RULE.limit) >= Math.log(1 / RULE.alpha);
    expect([halts(fewest - 1), halts(fewest)]).toEqual([false, true]);
  });

  test.each<[number, number, number[], number]>([
    [0, 1, [], 0.95],
    [0, 10, [], 0.258866],
    [0, 20, [], 0.139108],
    [0, 100, [], 0.0295131],
    [0, 149, [], 0.0199048],
    [1, 99, [], 0.0560942],
    [10, 990, [], 0.0197561],
    [0, 8, [0.1, 0.1], 0.531211],
    [0, 8, [1, 1], 0.312344],
    [1, 40, [0.5, 0.2, 0.05], 0.169597],
  ])('the upper bound with %i failed, %i healthy, undecided %j', (failed, healthy, late, published) => {
    expect(upperBound(failed, healthy, waitingOf(...late), RULE.delta) / published).toBeCloseTo(1, 4);
  });

  test('the chance that a device which has not reported yet has failed', () => {
    expect(failedChance(0.1, 0.5) / 0.181818).toBeCloseTo(1, 4);
    expect(failedChance(0.1, 0.05) / 0.689655).toBeCloseTo(1, 4);
  });

  test('the delay curve of six confirmations in ten bins', () => {
    const confirmed = [
      { startAgeBins: 8, delayBins: 2, devices: 1 },
      { startAgeBins: 8, delayBins: 3, devices: 2 },
      { startAgeBins: 8, delayBins: 5, devices: 1 },
      { startAgeBins: 4, delayBins: 2, devices: 2 },
    ];
    expect(delayCurve(confirmed, 10).map((late) => late.toFixed(4))).toEqual([
      '0.3840',
      '0.3840',
      '0.1993',
      '0.0761',
      '0.0761',
      '0.0050',
      '0.0050',
      '0.0050',
      '0.0050',
      '0.0050',
    ]);
  });

  test('a device is no later than those were that reported within the same bin', () => {
    const late = (ageBins: number): number =>
      waitingAt(
        input({
          confirmed: [{ startAgeBins: 30, delayBins: 10, devices: 100_000 }],
          undecided: [{ ageBins, devices: 1 }],
        }),
      )[0]!.late;
    expect(late(0)).toBe(1);
    expect(late(10)).toBeGreaterThan(0.99);
    expect(late(11)).toBeLessThan(0.01);
  });
});

describe('reference steps with a budget of 20', () => {
  test('the start offers to as many as the budget', () => {
    expect(judge(input({}), RULE)).toMatchObject({ kind: 'offer', atMost: 20, risk: 0, upperBound: 1 });
  });

  test('20 healthy ones open the way for 171', () => {
    const verdict = offerBound(0, 20, [], RULE);
    expect(verdict.atMost).toBe(171);
    expect(verdict.risk / -0.4).toBeCloseTo(1, 4);
    expect(judge(input({ healthy: 20 }), RULE)).toEqual({ kind: 'offer', ...verdict });
  });

  test('20 healthy ones and 100 too young to tell leave 71', () => {
    const verdict = offerBound(0, 20, [{ late: 1, devices: 100 }], RULE);
    expect(verdict.atMost).toBe(71);
    expect(verdict.risk / 11.5108).toBeCloseTo(1, 4);
  });

  test('18 healthy ones and two that should have reported', () => {
    const verdict = offerBound(0, 18, waitingOf(0.1, 0.1), RULE);
    expect(verdict.atMost).toBe(78);
    expect(verdict.upperBound / 0.259354).toBeCloseTo(1, 4);
    expect(verdict.risk / 1.15573).toBeCloseTo(1, 4);
  });

  test('one failure among a hundred', () => {
    expect(judge(input({ failed: 1, healthy: 99 }), RULE)).toMatchObject({ kind: 'offer', atMost: 581 });
  });

  test('four failures with sixteen undecided halt on evidence', () => {
    expect(judge(input({ failed: 4, undecided: [{ ageBins: 0, devices: 16 }] }), RULE)).toMatchObject({
      kind: 'halt',
      why: 'evidence',
    });
  });

  test('twenty silent ones hold, without halting', () => {
    const verdict = judge(input({ undecided: [{ ageBins: 30, devices: 20 }] }), RULE);
    expect(verdict).toMatchObject({ kind: 'offer', atMost: 0 });
    expect((verdict.kind === 'offer' ? verdict.risk : Number.NaN) / 19.6).toBeCloseTo(1, 4);
  });

  test('a release that has proved itself is bounded by the rate alone', () => {
    const verdict = judge(input({ failed: 2, healthy: 1200 }), RULE);
    expect(verdict).toMatchObject({ kind: 'offer', atMost: Number.POSITIVE_INFINITY });
    expect(verdict.kind === 'offer' && verdict.upperBound).toBeCloseTo(0.00638, 5);
  });
});

describe('a small fleet', () => {
  test('with a budget of one the first failure halts, and one device goes first', () => {
    const rule = { ...RULE, budget: 1 };
    expect(judge(input({}), rule)).toMatchObject({ atMost: 1 });
    expect(judge(input({ failed: 1 }), rule)).toMatchObject({ kind: 'halt', why: 'budget' });
    expect(judge(input({ failed: 1, healthy: 3 }), rule)).toMatchObject({ kind: 'halt' });
  });

  test('two of two failing halt on evidence, two of eight do not: there a gate and a small budget do the work', () => {
    expect(judge(input({ failed: 2 }), RULE)).toMatchObject({ kind: 'halt', why: 'evidence' });
    expect(judge(input({ failed: 2, healthy: 6 }), RULE)).toMatchObject({ kind: 'offer' });
    expect(judge(input({ failed: 2, healthy: 6 }), { ...RULE, budget: 2 })).toMatchObject({
      kind: 'halt',
      why: 'budget',
    });
  });
});

const bin = fc.integer({ min: 0, max: 70 });
const anyInput = fc.record({
  healthy: fc.integer({ min: 0, max: 3000 }),
  failed: fc.integer({ min: 0, max: 300 }),
  undecided: fc.array(fc.record({ ageBins: bin, devices: fc.integer({ min: 1, max: 400 }) }), { maxLength: 12 }),
  confirmed: fc.array(fc.record({ startAgeBins: bin, delayBins: bin, devices: fc.integer({ min: 1, max: 400 }) }), {
    maxLength: 12,
  }),
});
const anyRule = fc.record({
  limit: fc.double({ min: 0.0001, max: 0.5, noNaN: true }),
  alpha: fc.double({ min: 0.0001, max: 0.5, noNaN: true }),
  budget: fc.double({ min: 1, max: 1000, noNaN: true }),
  delta: fc.double({ min: 0.0001, max: 0.5, noNaN: true }),
});

describe('whatever the numbers', () => {
  test('nothing halts while nothing has failed: undecided devices limit growth but never halt', () => {
    fc.assert(
      fc.property(anyInput, anyRule, (some, rule) => {
        expect(judge({ ...some, failed: 0 }, rule).kind).toBe('offer');
      }),
    );
  });

  test('undecided devices count as healthy for halting: whether some have not reported yet does not matter', () => {
    fc.assert(
      fc.property(anyInput, anyRule, (some, rule) => {
        const undecided = some.undecided.reduce((sum, { devices }) => sum + devices, 0);
        const reported = { ...some, healthy: some.healthy + undecided, undecided: [] };
        expect(judge(some, rule).kind).toBe(judge(reported, rule).kind);
      }),
    );
  });

  test('the offer is a count or unbounded, never negative and never not-a-number', () => {
    fc.assert(
      fc.property(anyInput, anyRule, (some, rule) => {
        const verdict = judge(some, rule);
        fc.pre(verdict.kind === 'offer');
        expect(verdict.atMost).toBeGreaterThanOrEqual(0);
        expect(verdict.atMost === Number.POSITIVE_INFINITY || Number.isInteger(verdict.atMost)).toBe(true);
        expect(Number.isFinite(verdict.risk)).toBe(true);
        expect(verdict.upperBound).toBeGreaterThanOrEqual(0);
        expect(verdict.upperBound).toBeLessThanOrEqual(1);
      }),
    );
  });

  test('one more failure among the same devices never turns a halt back', () => {
    fc.assert(
      fc.property(anyInput, anyRule, (some, rule) => {
        fc.pre(some.healthy > 0);
        const worse = { ...some, failed: some.failed + 1, healthy: some.healthy - 1 };
        fc.pre(judge(some, rule).kind === 'halt');
        expect(judge(worse, rule).kind).toBe('halt');
      }),
    );
  });

  test('one more failure among the same devices never lowers the upper bound, one more healthy one never raises it', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 300 }),
        fc.integer({ min: 1, max: 3000 }),
        fc.array(
          fc.record({ late: fc.double({ min: 0.005, max: 1, noNaN: true }), devices: fc.integer({ min: 1, max: 50 }) }),
          {
            maxLength: 8,
          },
        ),
        fc.double({ min: 0.001, max: 0.5, noNaN: true }),
        (failed, healthy, waiting, delta) => {
          const bound = upperBound(failed, healthy, waiting, delta);
          expect(upperBound(failed + 1, healthy - 1, waiting, delta)).toBeGreaterThanOrEqual(bound - 1e-9);
          expect(upperBound(failed, healthy + 1, waiting, delta)).toBeLessThanOrEqual(bound + 1e-9);
        },
      ),
    );
  });

  test('the upper bound is where the log likelihood, as it is written down, has fallen by ln(1/delta)', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 300 }),
        fc.integer({ min: 1, max: 10_000 }),
        fc.array(
          fc.record({
            late: fc.double({ min: 0.005, max: 1, noNaN: true }),
            devices: fc.integer({ min: 1, max: 5_000 }),
          }),
          { maxLength: 60 },
        ),
        fc.double({ min: 0.0001, max: 0.5, noNaN: true }),
        (failed, healthy, waiting, delta) => {
          const likelihood = (p: number): number =>
            (failed === 0 ? 0 : failed * Math.log(p)) +
            healthy * Math.log1p(-p) +
            waiting.reduce((sum, { late, devices }) => sum + devices * Math.log(late + p * (1 - late)), 0);
          // By trisection and bisection, a step at a time: slow, and nothing to go wrong.
          let [from, to] = [0, 1];
          for (let step = 0; step < 200; step++) {
            const third = (to - from) / 3;
            if (likelihood(from + third) < likelihood(to - third)) from += third;
            else to -= third;
          }
          const floor = likelihood((from + to) / 2 || Number.MIN_VALUE) + Math.log(delta);
          to = 1;
          for (let step = 0; step < 100; step++) {
            const middle = (from + to) / 2;
            if (likelihood(middle) >= floor) from = middle;
            else to = middle;
          }
          expect(upperBound(failed, healthy, waiting, delta) / from).toBeCloseTo(1, 6);
        },
      ),
    );
  });

  test('the delay curve falls with age and stays between late-by-chance and certain', () => {
    fc.assert(
      fc.property(anyInput, ({ confirmed }) => {
        const curve = delayCurve(confirmed, 60);
        expect(curve).toHaveLength(60);
        curve.forEach((late, age) => {
          expect(late).toBeGreaterThanOrEqual(0.005);
          expect(late).toBeLessThanOrEqual((curve[age - 1] ?? 1) + 1e-12);
        });
      }),
    );
  });

  test('how the counts are cut into groups of the same bins does not matter', () => {
    const whole = input({
      healthy: 40,
      undecided: [{ ageBins: 3, devices: 10 }],
      confirmed: [{ startAgeBins: 9, delayBins: 4, devices: 40 }],
    });
    const cut = input({
      healthy: 40,
      undecided: [
        { ageBins: 3, devices: 4 },
        { ageBins: 3, devices: 6 },
      ],
      confirmed: [
        { startAgeBins: 9, delayBins: 4, devices: 15 },
        { startAgeBins: 9, delayBins: 4, devices: 25 },
      ],
    });
    const [a, b] = [judge(whole, RULE), judge(cut, RULE)];
    expect(a.kind === 'offer' && b.kind === 'offer' && a.atMost === b.atMost).toBe(true);
  });
});

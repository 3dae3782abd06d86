import { describe, expect, test } from 'vitest';
import { COMPARISONS } from '#server/simulate/comparisons.ts';
import { dueQueue } from '#server/simulate/due-queue.ts';
import { figuresOf } from '#server/simulate/figures.ts';
import { FleetModel, Simulation, Trial } from '#server/simulate/model.ts';
import { randomOf, waitOf } from '#server/simulate/random.ts';
import { planTrial, runOnce } from '#server/simulate/run-once.ts';
import { simulate } from '#server/simulate/simulate.ts';
import { virtualFleet } from '#server/simulate/virtual-fleet.ts';
import { Policy } from '#shared/policy.ts';

const SEED = 7;
const trialNamed = (name: string): Trial => COMPARISONS.find((trial) => trial.name === name)!;
/** `runs` of one of the compared policies, in this thread. */
const runsOf = (name: string, model: Partial<FleetModel>, runs: number) => {
  const full = FleetModel.parse(model);
  const planned = planTrial(trialNamed(name), full.devices);
  const outcomes = Array.from({ length: runs }, (_, run) => runOnce(planned, full, SEED, run));
  return figuresOf(name, outcomes, outcomes);
};

/** Harm of the published table (400 runs), and the standard deviation of one run, measured over 400 runs. */
const HARM = [
  { policy: 'evidence-20', failing: 0.03, silent: 0.3, harm: 48, deviation: 13.8, runs: 10 },
  { policy: 'evidence-20', failing: 0.05, silent: 0.3, harm: 26, deviation: 6.4, runs: 24 },
  { policy: 'evidence-20', failing: 0.1, silent: 0.3, harm: 15, deviation: 4.6, runs: 48 },
  { policy: 'evidence-20', failing: 0.3, silent: 0.3, harm: 11, deviation: 2.6, runs: 64 },
  { policy: 'evidence-20', failing: 1, silent: 0.3, harm: 20, deviation: 0, runs: 8 },
  { policy: 'evidence-20', failing: 1, silent: 1, harm: 20, deviation: 0, runs: 8 },
  { policy: 'evidence-10', failing: 0.05, silent: 0.3, harm: 15, deviation: 4, runs: 24 },
  { policy: 'evidence-10', failing: 0.1, silent: 1, harm: 13, deviation: 3.2, runs: 32 },
];
/**
 * Half a device: the table is rounded. Three standard errors: one seed in some hundreds would fail, and this one does
 * not.
 */
const marginOf = (deviation: number, runs: number): number => 0.5 + (3 * deviation) / Math.sqrt(runs);

describe('the table of docs/judge.md, within its sampling error', () => {
  test.each(HARM)('$policy, $failing failing, $silent of them silent: $harm harmed', (cell) => {
    const figures = runsOf(cell.policy, { failing: cell.failing, silent: cell.silent }, cell.runs);
    expect(figures.halted).toBe(1);
    expect(Math.abs(figures.harmed.mean - cell.harm)).toBeLessThanOrEqual(marginOf(cell.deviation, cell.runs));
  });

  test('a good release is never halted, and through in under three hours', () => {
    const figures = runsOf('evidence-20', { failing: 0.005 }, 2);
    expect(figures.falseHalts).toBe(0);
    expect(figures.minutesTo99).toBeGreaterThan(125);
    expect(figures.minutesTo99).toBeLessThan(175);
  });
});

test('a percentage of the decided halts good releases when failures report first; the judge does not', () => {
  const sooner = { failing: 0.01, devices: 2_000, failureReportMs: 60_000 };
  expect(runsOf('percentage-after-1', sooner, 16).halted).toBeGreaterThan(0.4);
  expect(runsOf('evidence-20', sooner, 5).halted).toBe(0);
});

test('the running count of a virtual fleet is what counting all deployments again gives', () => {
  const policy = Policy.parse({});
  const fleet = virtualFleet(FleetModel.parse({ failing: 0.2 }), { waveSizes: [100, 50], policy }, randomOf(SEED, 0));
  fleet.offer(0, 70, 0);
  for (let minute = 1; minute <= 50; minute++) fleet.pass(minute * 60_000);
  fleet.offer(1, 500, 50 * 60_000);
  for (let minute = 51; minute <= 180; minute++) fleet.pass(minute * 60_000);
  const devices = (outcome: string) =>
    fleet
      .bins()
      .filter((bin) => bin.outcome === outcome)
      .reduce((sum, bin) => sum + bin.devices, 0);
  expect(fleet.counted).toMatchObject({ exposed: 120, decided: 120 });
  expect(devices('planned')).toBe(30);
  expect(devices('undecided')).toBe(0);
  // Those that would take longer than their deadline are overdue without being harmed.
  expect(devices('failed')).toBeGreaterThanOrEqual(fleet.counted.harmed);
  expect(devices('healthy')).toBe(120 - devices('failed'));
});

test('threads come to the figures that one thread comes to, and say how far they are', async () => {
  const model = FleetModel.parse({ devices: 300, failing: 0.1 });
  const trials = ['evidence-20', 'wave-percentage-5'].map(trialNamed);
  const runs = 6;
  const progress: number[] = [];
  const simulation = Simulation.parse({ trials, model, good: 0.01, runs, seed: SEED });
  const figures = await simulate(simulation, (done) => progress.push(done));
  const alone = trials.map((trial) => {
    const planned = planTrial(trial, model.devices);
    const runsAt = (failing: number) =>
      Array.from({ length: runs }, (_, run) => runOnce(planned, { ...model, failing }, SEED, run));
    return figuresOf(trial.name, runsAt(0.1), runsAt(0.01));
  });
  expect(figures).toEqual(alone);
  expect(progress.at(-1)).toBe(2 * 2 * runs);
  expect(progress).toEqual(progress.toSorted((a, b) => a - b));
});

test('the same seed gives the same run; another seed, or another run of it, gives another', () => {
  const model = FleetModel.parse({ devices: 300, failing: 0.1 });
  const planned = planTrial(trialNamed('evidence-20'), model.devices);
  const few = (seed: number, from = 0) => [0, 1, 2].map((run) => runOnce(planned, model, seed, from + run));
  expect(few(1)).toEqual(few(1));
  expect(few(2)).not.toEqual(few(1));
  expect(few(1, 3)).not.toEqual(few(1));
});

test('what is due comes soonest first, and only once', () => {
  const queue = dueQueue<string>();
  for (const at of [5, 1, 9, 3, 7, 3]) queue.add(at, `at ${at}`);
  const taken = Array.from({ length: 7 }, () => queue.take(8)?.at);
  expect(taken).toEqual([1, 3, 3, 5, 7, undefined, undefined]);
  expect(queue.nextAt()).toBe(9);
});

test('reports take their mean, on average', () => {
  const random = randomOf(SEED, 1);
  const waits = Array.from({ length: 20_000 }, () => waitOf(random, 10));
  expect(waits.reduce((sum, wait) => sum + wait, 0) / waits.length).toBeCloseTo(10, 0);
});

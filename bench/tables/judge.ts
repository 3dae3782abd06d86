/**
 * `npm run table:judge [-- runs]`: simulates every cell of the table in docs/judge.md that a policy can express, with
 * standard errors in brackets.
 */
import { setPriority } from 'node:os';
import { COMPARISONS } from '#server/simulate/comparisons.ts';
import { FleetModel, type RunOutcome, Trial } from '#server/simulate/model.ts';
import { runAll } from '#server/simulate/simulate.ts';
import { readArguments, wholeNumber } from '#test/arguments.ts';

const USAGE = `Usage: npm run table:judge -- [runs]

  runs  how many rollouts are simulated for each figure (400)
`;
const { positionals } = readArguments(USAGE, { allowPositionals: true });
const RUNS = wholeNumber('runs', positionals[0] ?? '400', [1, 100_000]);
const MINUTE_MS = 60_000;
const LONGER_THAN_ANY_RUN_MS = 30 * 24 * 60 * MINUTE_MS;

/** The rule as hawkBit has it: the silent are never counted. */
const withoutOverdue = (trial: Trial): Trial =>
  Trial.parse({
    ...trial,
    name: `${trial.name}, silence never counted`,
    policy: { ...trial.policy, deadlines: { ...trial.policy.deadlines, outcomeMs: LONGER_THAN_ANY_RUN_MS } },
  });
const named = (name: string): Trial => COMPARISONS.find((trial) => trial.name === name)!;
const TRIALS = [...COMPARISONS, withoutOverdue(named('wave-percentage-2')), withoutOverdue(named('wave-percentage-5'))];

type Value = { title: string; valueOf: (run: RunOutcome) => number | null };
/** One release to one fleet, and what is told of it. */
type Scene = { model: Partial<FleetModel>; runs: number; values: Value[] };
const percentOf = (failing: number): string => `${100 * failing} %`;
const harm = (title: string): Value => ({ title, valueOf: ({ harmed }) => harmed });
/** Not those that come when all is over, once the silent are overdue after all. */
const falseHalts = (title: string): Value => ({
  title,
  valueOf: ({ halted, minutesTo99 }) => 100 * Number(halted && minutesTo99 === null),
});
const minutes = (title: string): Value => ({ title, valueOf: ({ minutesTo99 }) => minutesTo99 });
const SCENES: Scene[] = [
  ...[0.03, 0.05, 0.1, 0.3, 1].map((failing) => ({
    model: { failing },
    runs: RUNS,
    values: [harm(`harm at ${percentOf(failing)}`)],
  })),
  ...[0.1, 0.3, 1].map((failing) => ({
    model: { failing, silent: 1 },
    runs: RUNS,
    values: [harm(`all silent, ${percentOf(failing)}`)],
  })),
  // Good releases take longest to simulate, since everyone gets them.
  { model: { failing: 0.005 }, runs: RUNS / 4, values: [minutes('minutes at 0.5 %')] },
  { model: { failing: 0.01 }, runs: RUNS / 2, values: [minutes('minutes at 1 %'), falseHalts('false halts A, %')] },
  { model: { failing: 0.01, failureReportMs: MINUTE_MS }, runs: RUNS / 2, values: [falseHalts('false halts C, %')] },
];

/** Mean and standard error, of those runs that have a value; how many have none, if any. */
const cellOf = (values: (number | null)[]): string => {
  const known = values.filter((value) => value !== null);
  if (known.length === 0) return 'never';
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  const variance = known.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(1, known.length - 1);
  const never = values.length - known.length;
  return `${mean.toFixed(1)} (${Math.sqrt(variance / known.length).toFixed(1)})${never === 0 ? '' : `, ${never} never`}`;
};

setPriority(10);
const columns: { title: string; cells: string[] }[] = [];
for (const { model, runs, values } of SCENES) {
  const found = await runAll({
    trials: TRIALS,
    model: FleetModel.parse(model),
    good: 1,
    runs: Math.ceil(runs),
    seed: 1,
  });
  for (const { title, valueOf } of values) {
    columns.push({ title, cells: found.map(({ asked }) => cellOf(asked.map(valueOf))) });
    process.stderr.write(`${title}: ${columns.at(-1)!.cells.join(' | ')}\n`);
  }
}
const line = (cells: string[]): string => `| ${cells.join(' | ')} |`;
const rows = TRIALS.map(({ name }, trial) => line([name, ...columns.map(({ cells }) => cells[trial]!)]));
const head = ['policy', ...columns.map(({ title }) => title)];
process.stdout.write(`${[line(head), line(head.map(() => '---')), ...rows].join('\n')}\n`);

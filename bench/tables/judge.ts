/** `npm run table:judge [-- runs]`: simulates every cell of the table in docs/judge.md that a policy can express, with standard errors in brackets. */
import { setPriority } from 'node:os';
import { COMPARISONS } from '#server/simulate/comparisons.ts';
import { FleetModel, type RunOutcome, Trial } from '#server/simulate/model.ts';
import { runAll } from '#server/simulate/simulate.ts';

const RUNS = Number(process.argv[2] ?? 400);
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

type Column = { title: string; model: Partial<FleetModel>; valueOf: (run: RunOutcome) => number | null };
const harmed = ({ harmed: devices }: RunOutcome): number => devices;
const haltedPercent = ({ halted }: RunOutcome): number => 100 * Number(halted);
const minutes = ({ minutesTo99 }: RunOutcome): number | null => minutesTo99;
const COLUMNS: Column[] = [
  ...[0.03, 0.05, 0.1, 0.3, 1].map((failing) => ({
    title: `harm at ${100 * failing} %`,
    model: { failing },
    valueOf: harmed,
  })),
  ...[0.1, 0.3, 1].map((failing) => ({
    title: `all silent, ${100 * failing} %`,
    model: { failing, silent: 1 },
    valueOf: harmed,
  })),
  { title: 'false halts A, %', model: { failing: 0.01 }, valueOf: haltedPercent },
  { title: 'false halts C, %', model: { failing: 0.01, failureReportMs: MINUTE_MS }, valueOf: haltedPercent },
  ...[0.005, 0.01].map((failing) => ({
    title: `minutes at ${100 * failing} %`,
    model: { failing },
    valueOf: minutes,
  })),
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
const rows = TRIALS.map(({ name }) => [name]);
for (const { model, valueOf } of COLUMNS) {
  const simulation = { trials: TRIALS, model: FleetModel.parse(model), good: 1, runs: RUNS, seed: 1 };
  const runs = await runAll(simulation);
  for (const [trial, { asked }] of runs.entries()) rows[trial]!.push(cellOf(asked.map(valueOf)));
}
const line = (cells: string[]): string => `| ${cells.join(' | ')} |`;
const head = ['policy', ...COLUMNS.map(({ title }) => title)];
process.stdout.write(`${[line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')}\n`);

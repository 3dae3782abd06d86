/**
 * `sluice simulate`: what would a policy do to a bad release, and to a good one? Needs no server: the domain's code on
 * a virtual clock.
 */
import { basename, extname } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { z } from 'zod';
import type { Trial, TrialFigures } from '#server/simulate/model.ts';
import { CohortPlan, Policy } from '#shared/policy.ts';
import { withExamples } from '../command.ts';
import { usageFailure } from '../failure.ts';
import { type Cell, paint, print, printError, printJson, table, withProgress } from '../terminal.ts';
import { cohortPlan, collect, collectText, duration, pair, readPolicy, wholeNumber } from '../values.ts';

/** `3%` or `0.03`, as a share from 0 to 1. */
const share = (text: string): number => {
  const match = /^(\d+(?:\.\d+)?)(%?)$/.exec(text);
  const value = match === null ? Number.NaN : Number(match[1]) / (match[2] === '%' ? 100 : 1);
  if (!(value <= 1)) throw new InvalidArgumentError('must be a share such as 3% or 0.03');
  return value;
};
const shareOption = (flag: string, means: string, usual: string): Option =>
  new Option(flag, means).argParser(share).default(share(usual), usual);
/** As the model has it. */
const NAME_MAX = 64;
const waves = (text: string): z.input<typeof CohortPlan>['waves'] => cohortPlan(`everyone=${text}`).waves;

type Flags = {
  fleet: number;
  failing: number;
  silent: number;
  policy?: string[];
  set?: [string, string][];
  waves?: z.input<typeof CohortPlan>['waves'];
  compare?: string;
  good: number;
  report: number;
  reportFailing?: number;
  runs: number;
  seed: number;
  json?: boolean;
};

export const addSimulate = (program: Command): void => {
  const simulate = program
    .command('simulate')
    .description(
      'Say what a policy would do to a release that fails on part of a fleet: the same code, a virtual clock',
    )
    .option('--fleet <devices>', 'devices in the fleet, at most 100000', wholeNumber, 10_000)
    .addOption(shareOption('--failing <share>', 'share of devices that the release fails on', '3%'))
    .addOption(shareOption('--silent <share>', 'share of the failing devices that never say so', '30%'))
    .option(
      '--policy <file>',
      'policy, YAML or JSON (docs/judge.md); every field has a safe default; repeatable, to compare them',
      collectText,
    )
    .option(
      '--set <path=value>',
      'one field of the policy (of each), such as judge.budget=5; repeatable',
      collect(pair),
    )
    .option('--waves <waves>', 'cumulative devices or percent, as in 2,10%,100% (default: all at once)', waves)
    .option('--compare <names>', 'which others to show as well, with commas, or none (default: the simple rules)')
    .addOption(
      shareOption('--good <share>', 'share of devices that a good release fails on, for false halts and time', '1%'),
    )
    .addOption(
      new Option('--report <time>', 'how long a device takes to prove its health, on average')
        .argParser(duration)
        .default(duration('10m'), '10m'),
    )
    .option('--report-failing <time>', 'how long to report a failure, on average (default: as --report)', duration)
    .option('--runs <number>', 'how many rollouts of each policy, at most 100000', wholeNumber, 200)
    .option('--seed <number>', 'the same seed gives the same figures', wholeNumber, 1)
    .option('--json', 'print JSON for scripts: an array with one object per policy');
  simulate.action(run);
  withExamples(simulate, [
    ['A release that fails on 3 %, a third of them in silence', 'sluice simulate --failing 3% --silent 30%'],
    ['Your policy, often', 'sluice simulate --fleet 10000 --failing 3% --policy policy.yaml --runs 1000'],
    ['Two policies, and no other', 'sluice simulate --policy careful.yaml --policy quick.yaml --compare none'],
    ['Failures report sooner than successes, as in life', 'sluice simulate --report 10m --report-failing 1m'],
    ['For a script', 'sluice simulate --fleet 500 --failing 10% --set judge.budget=5 --compare none --json'],
  ]);
};

const run = async (flags: Flags): Promise<void> => {
  const { Simulation } = await import('#server/simulate/model.ts');
  const { simulate } = await import('#server/simulate/simulate.ts');
  const parsed = Simulation.safeParse({
    trials: [...(await ownTrials(flags)), ...(await comparedTrials(flags.compare))],
    model: {
      devices: flags.fleet,
      failing: flags.failing,
      silent: flags.silent,
      reportMs: flags.report,
      failureReportMs: flags.reportFailing ?? flags.report,
    },
    good: flags.good,
    runs: flags.runs,
    seed: flags.seed,
  });
  if (!parsed.success) {
    const issues = parsed.error.issues.map(({ path, message }) => `  ${flagOf(path.map(String))}: ${message}`);
    throw usageFailure(['This cannot be simulated:', ...issues].join('\n'));
  }
  const rows = await withProgress(
    'simulating',
    (onProgress) => simulate(parsed.data, onProgress),
    (n) => `${n} rollouts`,
  );
  if (flags.json === true) return printJson(rows);
  print(tableOf(rows));
  const good = Math.min(flags.good, flags.failing);
  printError(
    paint.dim(
      `\n${flags.runs} rollouts to ${flags.fleet} devices, ${percent(flags.failing)} failing, ${percent(flags.silent)} of them in silence; seed ${flags.seed}.\n` +
        `False halts and time are those of a good release, ${percent(good)} failing.`,
    ),
  );
};

/** One for each `--policy`, named for its file, or the default policy; all with the same `--set` and `--waves`. */
const ownTrials = async (flags: Flags): Promise<Trial[]> => {
  const files = flags.policy ?? [undefined];
  const names = files.map((file) => (file === undefined ? 'policy' : basename(file, extname(file))));
  return Promise.all(
    files.map(async (file, at) => ({
      // Two files of one name are told apart by their folders.
      name: (names.filter((name) => name === names[at]).length === 1 ? names[at]! : file!).slice(-NAME_MAX),
      policy: Policy.parse(await readPolicy(file, flags.set ?? [])),
      waves: flags.waves ?? [{ percent: 100 }],
    })),
  );
};

const comparedTrials = async (wanted: string | undefined): Promise<Trial[]> => {
  const { COMPARED_BY_DEFAULT, COMPARISONS } = await import('#server/simulate/comparisons.ts');
  const names = wanted === 'none' ? [] : (wanted?.split(',') ?? COMPARED_BY_DEFAULT);
  return names.map((name) => {
    const known = COMPARISONS.find((trial) => trial.name === name);
    if (known) return known;
    throw usageFailure(`there is no ${name} to compare with; there are ${COMPARISONS.map((c) => c.name).join(', ')}`);
  });
};

const FLAGS: Record<string, string> = {
  trials: '--policy and --compare',
  devices: '--fleet',
  reportMs: '--report',
  failureReportMs: '--report-failing',
};
const flagOf = (path: string[]): string => {
  const name = (path[0] === 'model' ? path[1] : path[2] === 'waves' ? 'waves' : path[0]) ?? '';
  return FLAGS[name] ?? `--${name}`;
};

const percent = (value: number): string => `${Number((100 * value).toFixed(1))} %`;
const tableOf = (rows: TrialFigures[]): string =>
  table(
    ['POLICY', 'HARMED', 'P95', 'EXPOSED', 'P95', 'HALTED', 'FALSE HALTS', '99 % DECIDED'],
    rows.map(({ policy, harmed, exposed, halted, falseHalts, minutesTo99 }): Cell[] => [
      policy,
      Math.round(harmed.mean),
      harmed.p95,
      Math.round(exposed.mean),
      exposed.p95,
      percent(halted),
      percent(falseHalts),
      minutesTo99 === null ? 'never' : `${Math.round(minutesTo99)} min`,
    ]),
  );

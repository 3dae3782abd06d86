/** From a failing history to a shorter one that fails in the same way: fewer kinds of faults, fewer devices, fewer rollouts, and no time after the failure. */
import { type Outcome, simulate } from './simulate.ts';
import { FAULTS, type Options } from './world.ts';

export type Failure = { options: Options; outcome: Outcome; tried: number };
const TRIES_MAX = 30;
const LINES_SHOWN = 60;

/** Two failures are the same when their words are, but for names and numbers. */
const kindOf = (outcome: Outcome): string =>
  (outcome.violation?.what ?? '').split(': {')[0]!.replace(/[\d.]+|ro-\S+|gw-\S+/g, '#');

export const shrink = async (options: Options, outcome: Outcome, triesMax = TRIES_MAX): Promise<Failure> => {
  let best: Failure = { options, outcome, tried: 0 };
  const attempt = async (change: Partial<Options>): Promise<void> => {
    if (best.tried >= triesMax) return;
    const smaller = { ...best.options, ...change };
    const result = await simulate(smaller);
    const tried = best.tried + 1;
    const isBetter =
      result.violation !== null &&
      kindOf(result) === kindOf(outcome) &&
      result.lines.length <= best.outcome.lines.length;
    best = isBetter ? { options: smaller, outcome: result, tried } : { ...best, tried };
  };
  for (const devices of [2, Math.ceil(options.devices / 2)])
    if (devices < best.options.devices) await attempt({ devices });
  for (const fault of FAULTS) {
    if (!best.options.faults.has(fault)) continue;
    await attempt({ faults: new Set([...best.options.faults].filter((one) => one !== fault)) });
  }
  if (best.options.rollouts > 1) await attempt({ rollouts: 1 });
  return best;
};

export const formatOutcome = ({ options, outcome, tried }: Failure): string => {
  const { violation, lines } = outcome;
  if (violation === null) return `seed ${options.seed} holds (${lines.length} lines)`;
  const kept = lines.slice(-LINES_SHOWN);
  return [
    `seed ${options.seed} fails: ${violation.what}`,
    `  after ${Math.round(violation.at / 1000)} s, with ${options.devices} devices and the faults ${[...options.faults].join(', ') || 'none'} (${tried} shorter ones tried)`,
    ...(kept.length < lines.length ? [`  ... ${lines.length - kept.length} lines before`] : []),
    ...kept.map((line) => `  ${line}`),
  ].join('\n');
};

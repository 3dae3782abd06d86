/**
 * From a failing history to a shorter one that fails in the same way: fewer devices, rollouts, kinds of faults and
 * features, and then single strikes of faults are left out, half of what is left at a time, down to those that it
 * takes.
 */
import { type Outcome, simulate } from './simulate.ts';
import { FAULTS, FEATURES, type Options } from './world.ts';

export type Failure = { options: Options; outcome: Outcome; tried: number };
const TRIES_MAX = 120;
const LINES_SHOWN = 80;
const STRIKES_SHOWN = 40;

/** Two failures are the same when their words are, but for names and numbers. */
const kindOf = (outcome: Outcome): string =>
  (outcome.violation?.what ?? '').split(': {')[0]!.replace(/[\d.]+|ro-\S+|gw-\S+/g, '#');

export const shrink = async (options: Options, outcome: Outcome, triesMax = TRIES_MAX): Promise<Failure> => {
  let best: Failure = { options, outcome, tried: 0 };
  /** Whether it still fails so, and not later. */
  const attempt = async (change: Partial<Options>): Promise<boolean> => {
    if (best.tried >= triesMax) return false;
    const giveUpMs = best.outcome.violation!.at * LATER_MAX;
    const smaller = { ...best.options, ...change, giveUpMs };
    const result = await simulate(smaller);
    const tried = best.tried + 1;
    const { violation } = result;
    const fails = violation !== null && kindOf(result) === kindOf(outcome);
    best = fails ? { options: smaller, outcome: result, tried } : { ...best, tried };
    return fails;
  };
  const without = <T>(all: ReadonlySet<T>, one: T): Set<T> => new Set([...all].filter((each) => each !== one));
  for (const devices of [2, Math.ceil(options.devices / 2)])
    if (devices < best.options.devices) await attempt({ devices });
  for (const fault of FAULTS)
    if (best.options.faults.has(fault)) await attempt({ faults: without(best.options.faults, fault) });
  for (const feature of FEATURES)
    if (best.options.features.has(feature)) await attempt({ features: without(best.options.features, feature) });
  for (let rollouts = 1; rollouts < best.options.rollouts; rollouts += 1) if (await attempt({ rollouts })) break;
  await shrinkStrikes(() => best, attempt);
  return best;
};

/** A shorter history may be a little longer in time. */
const LATER_MAX = 1.2;

/** Delta debugging: leaves out ever smaller pieces of what has struck, as long as it still fails. */
const shrinkStrikes = async (
  best: () => Failure,
  attempt: (change: Partial<Options>) => Promise<boolean>,
): Promise<void> => {
  for (let size = Math.ceil(best().outcome.struck.length / 2); size >= 1; size = Math.floor(size / 2)) {
    for (let from = 0; from < best().outcome.struck.length; ) {
      const piece = best().outcome.struck.slice(from, from + size);
      const left = await attempt({ without: new Set([...(best().options.without ?? []), ...piece]) });
      if (!left) from += size;
    }
  }
};

export const formatOutcome = ({ options, outcome, tried }: Failure): string => {
  const { violation, lines, struck } = outcome;
  if (violation === null) return `seed ${options.seed} holds (${lines.length} lines)`;
  const about = linesAbout(lines, violation.what);
  const kept = about.slice(-LINES_SHOWN);
  const named = (all: Iterable<string>): string => [...all].join(', ') || 'none';
  return [
    `seed ${options.seed} fails: ${violation.what}`,
    `  after ${Math.round(violation.at / 1000)} s; shortest of ${tried + 1}: ${options.devices} devices, ${options.rollouts} rollouts, features ${named(options.features)}; faults of the kinds ${named(options.faults)}`,
    `  ${struck.length} struck: ${named(struck.slice(0, STRIKES_SHOWN))}${struck.length > STRIKES_SHOWN ? ', ...' : ''}`,
    `  the last ${kept.length} of ${about.length} lines about it (${lines.length} in all):`,
    ...kept.map((line) => `  ${line}`),
  ].join('\n');
};

const DEVICE = /\b(?:gw-\d+)\b/g;
const ROLLOUT = /\b(?:ro-\d+|rd-\d+)\b/g;

/** What was said of the devices and rollouts that the failure names, and of no one in particular. */
const linesAbout = (lines: readonly string[], what: string): string[] => {
  const devices = new Set(what.match(DEVICE));
  const rollouts = new Set(what.match(ROLLOUT));
  return lines.filter((line) => {
    const [theirs, of] = [line.match(DEVICE) ?? [], line.match(ROLLOUT) ?? []];
    if (theirs.length > 0 && devices.size > 0) return theirs.some((one) => devices.has(one));
    return of.length === 0 || rollouts.size === 0 || of.some((one) => rollouts.has(one));
  });
};

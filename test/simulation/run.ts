/**
 * `npm run simulate:system -- --seed N`: one history, or with `--seeds K` as many from there on, at most `--minutes M`
 * long. `--history` prints it. `--bug NAME` plants one, to see how it is found. A failure prints its seed and the
 * shortest history that was found, and ends with exit code 1.
 */
import { readArguments, refuseArguments, wholeNumber } from '#test/arguments.ts';
import { formatOutcome, shrink } from './shrink.ts';
import { optionsOf, simulate } from './simulate.ts';
import { BUGS } from './world.ts';

const USAGE = `Usage: npm run simulate:system -- [options]

  --seed N     the history to run (drawn, and printed in the end)
  --seeds K    as many, from there on (1)
  --minutes M  no further one begins after (10)
  --history    prints it
  --bug NAME   plants one, to see how it is found: ${BUGS.join(', ')}

  npm run simulate:system -- --seed 7 --seeds 20
`;
const { values } = readArguments(USAGE, {
  options: {
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 31)) },
    seeds: { type: 'string', default: '1' },
    minutes: { type: 'string', default: '10' },
    history: { type: 'boolean', default: false },
    bug: { type: 'string' },
  },
});
const first = wholeNumber('--seed', values.seed, [0, 2 ** 31]);
const seeds = wholeNumber('--seeds', values.seeds, [1, 1_000_000]);
const minutes = wholeNumber('--minutes', values.minutes, [0, 100_000]);
const bug = BUGS.find((name) => name === values.bug);
if (values.bug !== undefined && bug === undefined) refuseArguments(`the bugs are ${BUGS.join(', ')}`);
const beganAt = performance.now();
const passedMs = (): number => performance.now() - beganAt;
let hours = 0;
let ran = 0;
let failures = 0;
const totals: Record<string, number> = {};
for (let seed = first; seed < first + seeds && passedMs() < minutes * 60_000; seed += 1) {
  const options = optionsOf(seed, { bug });
  const outcome = await simulate(options);
  ran += 1;
  hours += outcome.deviceHours;
  for (const [name, count] of Object.entries(outcome.counts)) totals[name] = (totals[name] ?? 0) + count;
  if (values.history) console.log(outcome.lines.join('\n'));
  if (outcome.violation === null) continue;
  failures += 1;
  console.log(formatOutcome(await shrink(options, outcome)));
}
console.log(
  `${ran} histories from seed ${first}, ${Math.round(hours)} device-hours in ${Math.round(passedMs() / 1000)} s; ${failures} failed`,
);
console.log(JSON.stringify(totals));
process.exitCode = failures === 0 ? 0 : 1;

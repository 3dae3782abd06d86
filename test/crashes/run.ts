/**
 * `npm run explore:crashes`: every point of every adapter, in all ways. `--adapter NAME` (part of its name, may be
 * repeated), `--only EXPLORATION` (may be repeated) and `--share I/N` (every Nth point) make it less. Ends with one
 * line, and exit code 1 where a property did not hold.
 */
import { readArguments, refuseArguments } from '#test/arguments.ts';
import { KINDS } from './devices.ts';
import { EXPLORATIONS, everyDeath } from './explorations.ts';
import { explore } from './explore.ts';

const PROGRESS_MS = 10_000;
const VIOLATIONS_MAX = 5;

const USAGE = `Usage: npm run explore:crashes -- [options]

  --adapter PART  those with this in their names, may be repeated (all): ${KINDS.map(({ name }) => name).join('; ')}
  --only NAME     may be repeated (all): ${Object.keys(EXPLORATIONS).join(', ')}
  --share I/N     every Nth point (1/1)

  npm run explore:crashes -- --adapter grub --only disk-full
`;
const { values } = readArguments(USAGE, {
  options: {
    adapter: { type: 'string', multiple: true, default: [''] },
    only: { type: 'string', multiple: true, default: Object.keys(EXPLORATIONS) },
    share: { type: 'string', default: '1/1' },
  },
});
const [share, shares] = (/^([1-9]\d*)\/([1-9]\d*)$/.exec(values.share)?.slice(1) ?? []).map(Number);
if (share === undefined || shares === undefined || share > shares)
  refuseArguments('--share is, say, 2/4: the second of four');
const kinds = KINDS.filter(({ name }) =>
  values.adapter.some((part) => name.toLowerCase().includes(part.toLowerCase())),
);
if (kinds.length === 0) refuseArguments(`the adapters are: ${KINDS.map(({ name }) => name).join('; ')}`);
const unknown = values.only.find((name) => EXPLORATIONS[name] === undefined);
if (unknown !== undefined) refuseArguments(`the explorations are ${Object.keys(EXPLORATIONS).join(', ')}`);

// While it explores, the clock is the device's.
const real = performance.now.bind(performance);
const beganAt = real();
const secondsSince = (at: number): number => Math.round((real() - at) / 1000);
const totals = { crashes: 0, lives: 0, violations: 0 };
for (const kind of kinds) {
  for (const name of values.only) {
    const what = EXPLORATIONS[name]!;
    const deaths = everyDeath(what);
    const from = real();
    let shownAt = from;
    const found = await explore({
      kind,
      ...what,
      deaths: (point) => (point % shares === share - 1 ? deaths(point) : []),
      violationsMax: VIOLATIONS_MAX,
      onProgress: (point, { points, recoveries, violations }) => {
        if (real() - shownAt < PROGRESS_MS) return;
        shownAt = real();
        console.log(
          `  ${kind.name}, ${name}: point ${point} of ${points}, ${recoveries} crashes, ${violations.length} violations`,
        );
      },
    });
    console.log(
      `${kind.name}, ${name}: ${found.points} points, ${found.recoveries} crashes, ${found.lives} lives of the agent, ${secondsSince(from)} s`,
    );
    for (const violation of found.violations) console.log(`VIOLATION ${violation}`);
    totals.crashes += found.recoveries;
    totals.lives += found.lives;
    totals.violations += found.violations.length;
  }
}
console.log(
  `${kinds.length} adapters, ${totals.crashes} crashes, ${totals.lives} lives of the agent in ${secondsSince(beganAt)} s; ${totals.violations} violations`,
);
process.exitCode = totals.violations === 0 ? 0 : 1;

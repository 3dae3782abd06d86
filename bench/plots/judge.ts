/**
 * `npm run plot:judge`: simulates how many devices a bad release harms at each failure rate, and draws
 * docs/judge-harm.svg.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { COMPARISONS } from '#server/simulate/comparisons.ts';
import { FleetModel } from '#server/simulate/model.ts';
import { simulate } from '#server/simulate/simulate.ts';
import { readArguments, wholeNumber } from '#test/arguments.ts';

const USAGE = `Usage: npm run plot:judge -- [runs]

  runs  how many rollouts are simulated for each figure (100)
`;
const { positionals } = readArguments(USAGE, { allowPositionals: true });
const RUNS = wholeNumber('runs', positionals[0] ?? '100', [1, 100_000]);
const RATES = [0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1];
const CURVES = [
  { policy: 'evidence-20', label: 'this judge, budget 20', colour: '#0b7285', dashes: 'none' },
  { policy: 'evidence-10', label: 'this judge, budget 10', colour: '#66a80f', dashes: 'none' },
  { policy: 'wave-percentage-2', label: '2 % of a wave (1/9/40/50)', colour: '#e8590c', dashes: 'none' },
  // Dashed, since from 20 % on it lies upon the one before.
  { policy: 'wave-percentage-5', label: '5 % of a wave (1/9/40/50)', colour: '#862e9c', dashes: '7 5' },
];
const [WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM] = [760, 420, 64, 24, 200, 52] as const;
const HARM_MAX = 1_000;

/** Both axes are logarithmic: 3 % to 100 %, and 5 to 1,000 devices. */
const x = (rate: number): number =>
  LEFT + ((WIDTH - LEFT - RIGHT) * Math.log(rate / RATES[0]!)) / Math.log(1 / RATES[0]!);
const HARM_MIN = 5;
const y = (harm: number): number =>
  TOP + (HEIGHT - TOP - BOTTOM) * (1 - Math.log(Math.max(HARM_MIN, harm) / HARM_MIN) / Math.log(HARM_MAX / HARM_MIN));

type Curve = (typeof CURVES)[number] & { harm: number[] };
const draw = (curves: Curve[]): string => {
  const lines = curves.map(({ colour, dashes, harm }) => {
    const points = harm.map((value, at) => `${x(RATES[at]!).toFixed(1)},${y(value).toFixed(1)}`);
    return `<polyline points="${points.join(' ')}" fill="none" stroke="${colour}" stroke-width="2.5" stroke-dasharray="${dashes}"/>`;
  });
  const keys = curves.map(({ colour, dashes, label }, at) => {
    const top = TOP + 14 + at * 22;
    return `<line x1="${WIDTH - RIGHT + 12}" x2="${WIDTH - RIGHT + 30}" y1="${top - 7}" y2="${top - 7}" stroke="${colour}" stroke-width="2.5" stroke-dasharray="${dashes}"/><text x="${WIDTH - RIGHT + 34}" y="${top - 3}">${label}</text>`;
  });
  const across = [5, 10, 20, 50, 100, 200, 500, 1000].map(
    (harm) =>
      `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(harm)}" y2="${y(harm)}" stroke="#dee2e6"/><text x="${LEFT - 8}" y="${y(harm) + 4}" text-anchor="end">${harm}</text>`,
  );
  const along = [0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1].map(
    (rate) =>
      `<line x1="${x(rate)}" x2="${x(rate)}" y1="${TOP}" y2="${HEIGHT - BOTTOM}" stroke="#dee2e6"/><text x="${x(rate)}" y="${HEIGHT - BOTTOM + 18}" text-anchor="middle">${Math.round(rate * 100)} %</text>`,
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12" fill="#343a40">
<title>Devices harmed by a bad release, by its failure rate</title>
<rect width="${WIDTH}" height="${HEIGHT}" fill="#ffffff"/>
${[...across, ...along, ...lines, ...keys].join('\n')}
<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 10}" text-anchor="middle">true failure rate of the release (30 % of the failures silent; logarithmic)</text>
<text transform="translate(16 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">devices harmed of 10,000, mean of ${RUNS} rollouts (logarithmic)</text>
</svg>
`;
};

const trials = CURVES.map(({ policy }) => COMPARISONS.find(({ name }) => name === policy)!);
const curves: Curve[] = CURVES.map((curve) => ({ ...curve, harm: [] }));
for (const failing of RATES) {
  const rows = await simulate({ trials, model: FleetModel.parse({ failing }), good: 1, runs: RUNS, seed: 1 });
  for (const [at, { harmed }] of rows.entries()) curves[at]!.harm.push(harmed.mean);
}
await writeFile(join(import.meta.dirname, '..', '..', 'docs', 'judge-harm.svg'), draw(curves));

import { globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { expect, test } from 'vitest';

/**
 * The rooms of each house, a floor a line, ground floor first. Imports run only down, types counted: a room sees the
 * floors below it, and neither its neighbours nor what is above. Everyone sees `shared/`. A folder stands for its files
 * that are in no room listed.
 */
const HOUSES: string[][][] = [
  [['shared']],
  [
    ['server/domain'],
    ['server/domain/cohort', 'server/domain/device', 'server/domain/release', 'server/domain/deployment'],
    ['server/domain/rollout'],
    ['server/store', 'server/simulate'],
    ['server/trust'],
    ['server/flow'],
    ['server/flow/time', 'server/flow/audit', 'server/flow/release'],
    ['server/flow/device'],
    ['server/flow/rollout'],
    ['server/http', 'server/mqtt'],
    ['server'],
  ],
  [
    ['agent/config'],
    ['agent/domain'],
    ['agent/log.ts'],
    ['agent/process'],
    ['agent/trust', 'agent/disk'],
    ['agent/server'],
    ['agent/application'],
    ['agent/transfer'],
    ['agent/slots'],
    ['agent/deployment'],
    ['agent/report', 'agent/fitness'],
    ['agent/local'],
    ['agent/launch'],
    ['agent'],
  ],
  [['cli']],
];
/**
 * `sluice serve` and `sluice agent` start the other two programs in the same process, when they are called; a backup
 * needs no server that runs.
 */
const LAUNCHES: Record<string, string> = {
  'cli/commands/serve.ts': 'server',
  'cli/commands/backup.ts': 'server',
  'cli/commands/agent.ts': 'agent',
  'cli/commands/simulate.ts': 'server/simulate',
};
/** What pure code may import: types and schemas of ours, and zod, which reads no clock and does no input or output. */
const PURE_PACKAGES = new Set(['zod']);

const root = join(import.meta.dirname, '..');
const sources = globSync('{shared,server,agent,cli}/**/*.ts', { cwd: root });

type Import = { specifier: string; typeOnly: boolean };
const importsOf = (file: string): Import[] =>
  [
    ...readFileSync(join(root, file), 'utf8').matchAll(
      /(?:^|\s)(?:import|export)\s+(type\s)?[^'";]*?from\s+'([^']+)'|import\(\s*'([^']+)'\s*\)|^import\s+'([^']+)'/gm,
    ),
  ].map((match) => ({ specifier: (match[2] ?? match[3] ?? match[4])!, typeOnly: match[1] !== undefined }));

const resolve = (file: string, specifier: string): string | undefined => {
  if (specifier.startsWith('#')) return specifier.slice(1);
  if (specifier.startsWith('.')) return normalize(join(dirname(file), specifier));
  return undefined;
};
const under = (path: string, place: string): boolean => path === place || path.startsWith(`${place}/`);

type Place = { house: number; floor: number; room: string };
const PLACES: Place[] = HOUSES.flatMap((floors, house) =>
  floors.flatMap((rooms, floor) => rooms.map((room) => ({ house, floor, room }))),
);
/** The room with the longest name that holds it. */
const placeOf = (file: string): Place | undefined =>
  PLACES.filter(({ room }) => under(file, room)).sort((one, other) => other.room.length - one.room.length)[0];

const mayImport = (file: string, to: string): boolean => {
  const [from, into] = [placeOf(file), placeOf(to)];
  if (from === undefined || into === undefined) return under(to, 'package.json');
  if (into.room === 'shared' || from.room === into.room || under(to, LAUNCHES[file] ?? '-')) return true;
  return from.house === into.house && from.floor > into.floor;
};

/**
 * Files that import each other, however far around, as one list each. Tarjan's algorithm: a file that reaches itself is
 * in one with all on the way.
 */
const circlesIn = (graph: ReadonlyMap<string, readonly string[]>): string[][] => {
  const order = new Map<string, number>();
  const lowest = new Map<string, number>();
  const path: string[] = [];
  const circles: string[][] = [];
  const visit = (file: string): number => {
    order.set(file, order.size);
    lowest.set(file, order.get(file)!);
    path.push(file);
    for (const to of graph.get(file) ?? []) {
      const reached = order.has(to) ? (path.includes(to) ? order.get(to)! : Number.POSITIVE_INFINITY) : visit(to);
      lowest.set(file, Math.min(lowest.get(file)!, reached));
    }
    if (lowest.get(file) === order.get(file)) {
      const circle = path.splice(path.indexOf(file));
      if (circle.length > 1) circles.push(circle);
    }
    return lowest.get(file)!;
  };
  for (const file of graph.keys()) if (!order.has(file)) visit(file);
  return circles;
};

test('there are sources to hold against the architecture, and each has its room', () => {
  expect(sources.length).toBeGreaterThan(300);
  expect(sources.flatMap(importsOf).length).toBeGreaterThan(1_500);
  expect(sources.filter((file) => placeOf(file) === undefined)).toEqual([]);
  const empty = PLACES.filter(({ room }) => !sources.some((file) => placeOf(file)?.room === room));
  expect(empty.map(({ room }) => room)).toEqual([]);
});

test('an import that runs upward or to a neighbour is noticed, and a launcher may do no more than launch', () => {
  expect(mayImport('server/domain/rollout/judge.ts', 'server/store/store.ts')).toBe(false);
  expect(mayImport('server/domain/deployment/retry.ts', 'server/domain/rollout/rollout.ts')).toBe(false);
  expect(mayImport('server/domain/audit.ts', 'server/domain/rollout/rollout.ts')).toBe(false);
  expect(mayImport('server/flow/time/calendar.ts', 'server/flow/release/packs.ts')).toBe(false);
  expect(mayImport('server/http/api.ts', 'server/mqtt/broker.ts')).toBe(false);
  expect(mayImport('server/flow/device/ingest.ts', 'server/domain/deployment/deployment.ts')).toBe(true);
  expect(mayImport('agent/main.ts', 'server/config.ts')).toBe(false);
  expect(mayImport('agent/config/config.ts', 'agent/slots/open-slots.ts')).toBe(false);
  expect(mayImport('agent/server/link.ts', 'agent/log.ts')).toBe(true);
  expect(mayImport('agent/server/link.ts', 'agent/life.ts')).toBe(false);
  expect(mayImport('shared/ids.ts', 'server/config.ts')).toBe(false);
  expect(mayImport('cli/client.ts', 'server/main.ts')).toBe(false);
  expect(mayImport('cli/commands/serve.ts', 'server/main.ts')).toBe(true);
  expect(mayImport('cli/commands/serve.ts', 'agent/main.ts')).toBe(false);
});

test('imports run only downward', () => {
  const wrong = sources.flatMap((file) =>
    importsOf(file)
      .map(({ specifier }) => resolve(file, specifier))
      .filter((to) => to !== undefined)
      .filter((to) => !mayImport(file, to))
      .map((to) => `${file} -> ${to}`),
  );
  expect(wrong).toEqual([]);
});

test('a circle is found, however far around it leads', () => {
  const graph = new Map([
    ['a', ['b', 'd']],
    ['b', ['c']],
    ['c', ['a']],
    ['d', []],
  ]);
  expect(circlesIn(graph).map((circle) => circle.toSorted())).toEqual([['a', 'b', 'c']]);
  expect(circlesIn(new Map([...graph, ['c', ['d']]]))).toEqual([]);
});

test('no files import each other in a circle, types counted', () => {
  const graph = new Map(
    sources.map((file) => [file, importsOf(file).flatMap(({ specifier }) => resolve(file, specifier) ?? [])]),
  );
  expect(circlesIn(graph)).toEqual([]);
});

test('domain folders are pure: no built-in module and no package but schemas', () => {
  const wrong = sources
    .filter((file) => under(file, 'server/domain') || under(file, 'agent/domain'))
    .flatMap((file) =>
      importsOf(file)
        .filter(
          ({ specifier, typeOnly }) =>
            !typeOnly && resolve(file, specifier) === undefined && !PURE_PACKAGES.has(specifier),
        )
        .map(({ specifier }) => `${file} -> ${specifier}`),
    );
  expect(wrong).toEqual([]);
});

test('what is pure reads no clock, no randomness and no process', () => {
  const forbidden = /\b(Date\.now|new Date\(\)|Math\.random|performance\.now|process\.|setTimeout|setInterval|fetch\()/;
  const wrong = sources
    .filter((file) => under(file, 'server/domain') || under(file, 'agent/domain'))
    .filter((file) => forbidden.test(readFileSync(join(root, file), 'utf8')));
  expect(wrong).toEqual([]);
});

test('no one reaches up two folders, and no one keeps a drawer for odds and ends', () => {
  expect(sources.filter((file) => readFileSync(join(root, file), 'utf8').includes("'../../"))).toEqual([]);
  expect(sources.filter((file) => /(^|\/)(utils?|helpers?|common|misc)(\.ts|\/)/.test(file))).toEqual([]);
});

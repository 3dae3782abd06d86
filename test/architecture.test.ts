import { globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { expect, test } from 'vitest';

// Imports run only to the left: shared <- domain <- store <- trust <- flow <- http | mqtt <- main. agent/ and cli/ see only shared/.
const MAY_IMPORT: Record<string, string[]> = {
  shared: ['shared'],
  'server/domain': ['shared', 'server/domain'],
  'server/simulate': ['shared', 'server/domain', 'server/simulate'],
  'server/store': ['shared', 'server/domain', 'server/store'],
  'server/trust': ['shared', 'server/domain', 'server/store', 'server/trust'],
  'server/flow': ['shared', 'server/domain', 'server/store', 'server/trust', 'server/flow'],
  'server/http': ['shared', 'server/domain', 'server/store', 'server/trust', 'server/flow', 'server/http'],
  'server/mqtt': ['shared', 'server/domain', 'server/store', 'server/trust', 'server/flow', 'server/mqtt'],
  'agent/domain': ['shared', 'agent/domain', 'agent/domain/slots.ts'],
  agent: ['shared', 'agent'],
  cli: ['shared', 'cli'],
};
/** The launchers: `sluice serve` and `sluice agent` start the other two programs in the same process, lazily; a backup needs no server that runs. */
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

const importsOf = (file: string): { specifier: string; typeOnly: boolean }[] =>
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
const roomOf = (file: string): string | undefined =>
  Object.keys(MAY_IMPORT)
    .filter((room) => under(file, room))
    .sort((a, b) => b.length - a.length)[0];

/** Files of no room (server/main.ts, server/config.ts, ...) are where everything is put together. */
const mayImport = (file: string, to: string): boolean => {
  const room = roomOf(file);
  if (room === undefined) return true;
  return MAY_IMPORT[room]!.some((place) => under(to, place)) || under(to, LAUNCHES[file] ?? '-');
};

test('there are sources to hold against the architecture', () => {
  expect(sources.length).toBeGreaterThan(60);
  expect(sources.flatMap(importsOf).length).toBeGreaterThan(200);
});

test('an import that runs upward is noticed, and a launcher may do no more than launch', () => {
  expect(mayImport('server/domain/rollout/judge.ts', 'server/store/store.ts')).toBe(false);
  expect(mayImport('agent/main.ts', 'server/config.ts')).toBe(false);
  expect(mayImport('cli/client.ts', 'server/main.ts')).toBe(false);
  expect(mayImport('cli/commands/serve.ts', 'server/main.ts')).toBe(true);
  expect(mayImport('cli/commands/serve.ts', 'agent/main.ts')).toBe(false);
  expect(mayImport('server/flow/device/ingest.ts', 'server/domain/deployment/deployment.ts')).toBe(true);
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

test('nobody reaches up two folders, and nobody keeps a drawer for odds and ends', () => {
  expect(sources.filter((file) => readFileSync(join(root, file), 'utf8').includes("'../../"))).toEqual([]);
  expect(sources.filter((file) => /(^|\/)(utils?|helpers?|common|misc)(\.ts|\/)/.test(file))).toEqual([]);
});

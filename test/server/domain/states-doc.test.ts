import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { MOVES, TOLD } from '#server/domain/deployment/deployment-step.ts';
import { SERVER_MOVES } from '#server/domain/deployment/server-moves.ts';
import { TRANSITIONS } from '#server/domain/rollout/rollout-step.ts';

const page = readFileSync(join(import.meta.dirname, '../../../docs/states.md'), 'utf8');

/** The cells of the table that follows a marker, without its rule. */
const tableAfter = (name: string): string[][] => {
  const lines = page
    .slice(page.indexOf(`<!-- table: ${name} -->`))
    .split('\n')
    .slice(1);
  const end = lines.findIndex((line) => !line.startsWith('|'));
  const rows = lines.slice(0, end).map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
  return rows.filter((_, index) => index !== 1);
};
const listed = (states: readonly string[]): string => (states.length === 0 ? '-' : states.join(', '));

test('docs/states.md shows the rollout table as it is', () => {
  const events = ['tick', 'pause', 'resume', 'activate', 'approve', 'abort', 'recall', 'release-withdrawn'] as const;
  expect(tableAfter('rollout')).toEqual([
    ['State', ...events],
    ...Object.entries(TRANSITIONS).map(([state, row]) => [state, ...events.map((event) => listed(row[event]))]),
  ]);
});

test('docs/states.md shows the deployment table as it is', () => {
  const [, ...rows] = tableAfter('deployment');
  expect(rows.map(([state, moves]) => [state, moves])).toEqual(
    Object.entries(MOVES).map(([state, moves]) => [state, listed(moves)]),
  );
});

test('docs/states.md shows what the server does to deployments', () => {
  const [, ...rows] = tableAfter('server');
  expect(rows).toEqual(Object.entries(SERVER_MOVES).map(([move, { from, to }]) => [move, listed(from), to]));
});

test('docs/states.md shows where the agent’s states lead', () => {
  const [, ...rows] = tableAfter('agent');
  expect(rows).toEqual(Object.entries(TOLD));
});

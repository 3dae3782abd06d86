/** Each adapter, killed and cut off at one in six of its points; `npm run explore:crashes` takes all of them, in every way, and prints how many. */
import { describe, expect, test } from 'vitest';
import { readSlotRecord, writeSlotRecord } from '#agent/slots/slot-record.ts';
import type { Slots } from '#agent/slots/slots.ts';
import { KINDS, PAIR } from './devices.ts';
import { DEATHS, type Exploration, explore, type Found, SCENARIOS, type Scenario } from './explore.ts';

const ALL = process.env['EXPLORE_CRASHES'] === 'all';
const EVERY = 6;

/** All deaths come in turn. */
const some =
  (from: number): Exploration['deaths'] =>
  (point) =>
    point % EVERY === from % EVERY ? [DEATHS[Math.floor(point / EVERY) % DEATHS.length]!] : [];

const told = (what: string, { points, recoveries, lives }: Found): void => {
  if (ALL) process.stdout.write(`${what}: ${points} points, ${recoveries} crashes, ${lives} lives of the agent\n`);
};

describe.each(KINDS.map((kind, number) => ({ ...kind, number })))('$name', ({ number, ...kind }) => {
  test.each(Object.entries(SCENARIOS))(
    'wherever it dies while it installs what is %s, that ends as %s, once, and something verified boots at every moment',
    async (name, _outcome) => {
      const scenario = name as Scenario;
      const found = await explore({ kind, scenario, deaths: ALL ? () => DEATHS : some(number) });
      told(`${kind.name}, ${scenario}`, found);
      expect(found.violations).toEqual([]);
      expect(found.points).toBeGreaterThan(60);
    },
    ALL ? 3_600_000 : 120_000,
  );
  test.runIf(ALL)(
    'two deaths, the second at any moment of the recovery from the first',
    async () => {
      // Different in each recovery, and from the first to the last of its changes.
      const again = (point: number): number => 1 + ((point * 7) % 41);
      const found = await explore({ kind, scenario: 'unhealthy', deaths: () => DEATHS, again });
      told(`${kind.name}, twice`, found);
      expect(found.violations).toEqual([]);
    },
    3_600_000,
  );
});

describe('a bug that is planted is found:', () => {
  const [directories] = KINDS;
  /** Marks the slot as verified, and has not looked. */
  const believing = (slots: Slots): Slots => ({
    ...slots,
    verify: async (slot) => {
      await writeSlotRecord(PAIR, { ...(await readSlotRecord(PAIR, slot))!, state: 'bootable' });
      return { ok: true };
    },
  });
  const PLANTED: Record<string, Pick<Exploration, 'scenario' | 'plant'> & { expected: RegExp }> = {
    'the files of a slot are not flushed': {
      scenario: 'good',
      plant: { forgets: (path) => path.startsWith(`${PAIR}/b/`) },
      expected: /slot b/,
    },
    'the record of a slot is not flushed before it is renamed': {
      scenario: 'good',
      plant: { forgets: (path) => path.startsWith(`${PAIR}/b.json.`) },
      expected: /reported as .* not as/,
    },
    'the journal is not flushed': {
      scenario: 'unhealthy',
      plant: { forgets: (path) => path.endsWith('/journal') },
      expected: /./,
    },
    'a slot is activated that was not read back': {
      scenario: 'bad-disk',
      plant: { wrap: believing },
      expected: /slot b is bootable, and not what was verified/,
    },
  };
  test.each(Object.entries(PLANTED))('%s', async (_name, { expected, ...exploration }) => {
    // Not of the beginning, when nothing has been written that could be lost.
    const deaths: Exploration['deaths'] = (point) => (point < 60 ? [] : [DEATHS[1 + (point % 4)]!]);
    const found = await explore({ kind: directories!, deaths, violationsMax: 6, ...exploration });
    expect(found.violations.join('\n')).toMatch(expected);
  });
});

/**
 * Each adapter, killed and cut off at one in twelve of its points; `npm run explore:crashes` takes all of them, in
 * every way.
 */

import { describe, expect, test } from 'vitest';
import type { SlotResult, Slots } from '#agent/domain/slots.ts';
import { readSlotRecord, writeSlotRecord } from '#agent/slots/slot-record.ts';
import { Sha256 } from '#shared/ids.ts';
import { ALL_SWEEPS } from '#test/sweep.ts';
import { DATA, PAIR } from './device.ts';
import { KINDS } from './devices.ts';
import { EXPLORATIONS } from './explorations.ts';
import { explore } from './explore.ts';
import { DEATHS, type Exploration } from './world.ts';

/** Of the points; where the disk refuses, which takes two lives each time, fewer. */
const EVERY = ALL_SWEEPS ? 12 : 60;
const EVERY_REFUSED = ALL_SWEEPS ? 40 : 200;
/** What is explored with every adapter here; `twice` takes too long. */
const ALL = Object.entries(EXPLORATIONS).filter(([name]) => name !== 'twice');

/** All deaths come in turn. */
const some =
  (from: number, every: number): Exploration['deaths'] =>
  (point) =>
    point % every === from % every ? [DEATHS[Math.floor(point / every) % DEATHS.length]!] : [];

describe.each(KINDS.map((kind, number) => ({ ...kind, number })))('$name', ({ number, ...kind }) => {
  test.each(ALL.map(([name, { sentence, ...what }], at) => ({ name, sentence, what, at })))(
    '$sentence',
    async ({ what, at }) => {
      const found = await explore({
        kind,
        ...what,
        deaths: some(number + at, what.refuses === undefined ? EVERY : EVERY_REFUSED),
      });
      expect(found.violations).toEqual([]);
      expect(found.points).toBeGreaterThan(60);
    },
    600_000,
  );
});

describe.each(KINDS.map((kind, number) => ({ ...kind, number })))(
  'the outcome is what the boot selector says, $name:',
  ({ number, ...kind }) => {
    const lost = async (done: Promise<SlotResult>): Promise<SlotResult> => {
      const { ok } = await done;
      if (ok && number % 2 === 0) throw new Error('the answer is lost');
      return { ok: false, code: 'WRITE_FAILED', message: 'the answer is lost' };
    };
    test.each([
      ['commit', 'good'],
      ['revert', 'unhealthy'],
    ] as const)('a %s that succeeds without an answer', async (what, scenario) => {
      const wrap = (slots: Slots): Slots => ({ ...slots, [what]: () => lost(slots[what]()) });
      const found = await explore({ kind, scenario, plant: { wrap }, deaths: some(number, EVERY_REFUSED) });
      expect(found.violations).toEqual([]);
    });
  },
);

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
  /** Takes for written what did not fit, and does not look. */
  const hopeful = (slots: Slots): Slots => ({
    ...slots,
    write: async (slot, manifest, digest, fetched) => {
      const written = await slots.write(slot, manifest, digest, fetched);
      const first = (await readSlotRecord(PAIR, 'a'))!;
      const { product, version } = manifest;
      const running = { product, version, manifest: Sha256.parse(digest), slot };
      if (!written.ok) await writeSlotRecord(PAIR, { ...first, running });
      return { ok: true };
    },
    verify: async () => ({ ok: true }),
  });
  const PLANTED: Record<string, Pick<Exploration, 'scenario' | 'plant' | 'refuses'> & { expected: RegExp }> = {
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
    'the folder of what was fetched is not flushed': {
      scenario: 'good',
      plant: { forgets: (path) => path === `${DATA}/downloads` },
      expected: /reported as .* failed .* not as/,
    },
    'a slot that did not fit is taken for written': {
      scenario: 'good',
      refuses: 'tight',
      plant: { wrap: hopeful },
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

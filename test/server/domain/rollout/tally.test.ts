import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { OutcomeBin } from '#server/domain/deployment/deployment.ts';
import { groupsOf, tallyOf, withoutAges } from '#server/domain/rollout/tally.ts';
import { Id } from '#shared/ids.ts';

const bin: fc.Arbitrary<OutcomeBin> = fc.record({
  cohort: fc.constantFrom(Id.parse('a'), Id.parse('b')),
  compatible: fc.constantFrom(Id.parse('gw1'), Id.parse('gw2')),
  wave: fc.integer({ min: 0, max: 2 }),
  outcome: fc.constantFrom('planned', 'undecided', 'healthy', 'failed'),
  startBin: fc.integer({ min: 0, max: 9 }),
  delayBins: fc.constant(null),
  devices: fc.integer({ min: 1, max: 50 }),
});
const bins = fc.array(bin, { maxLength: 30 });
const nameOf = ({ cohort, compatible, wave, outcome }: OutcomeBin): string =>
  `${cohort} ${compatible} ${wave} ${outcome}`;

describe('bins, in whatever order', () => {
  test('count the same without their ages, in every group and wave', () => {
    fc.assert(
      fc.property(bins, (some) => {
        const counts = withoutAges(some);
        for (const of of some) {
          const same = (one: OutcomeBin) => nameOf(one) === nameOf(of);
          expect(tallyOf(counts.filter(same))).toEqual(tallyOf(some.filter(same)));
        }
        expect(tallyOf(counts)).toEqual(tallyOf(some));
      }),
    );
  });

  test('in the order of the store are without their ages one for each group, wave and outcome', () => {
    fc.assert(
      fc.property(bins, (some) => {
        const counts = withoutAges(some.toSorted((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1)));
        expect(counts.map(nameOf)).toEqual([...new Set(counts.map(nameOf))]);
      }),
    );
  });

  test('fall into groups that each hold all of theirs, in the order in which they first appear', () => {
    fc.assert(
      fc.property(bins, (some) => {
        const names = some.map(({ cohort, compatible }) => `${cohort}/${compatible}`);
        const groups = groupsOf(some);
        expect(groups.map(({ cohort, compatible }) => `${cohort}/${compatible}`)).toEqual([...new Set(names)]);
        for (const { cohort, compatible, bins: own } of groups)
          expect(own).toEqual(some.filter((one) => one.cohort === cohort && one.compatible === compatible));
      }),
    );
  });
});

import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { addedChanges, type Contents } from '#server/domain/release/changes.ts';
import { Id } from '#shared/ids.ts';

const contents = (of: Record<string, string[]>): Contents[] =>
  Object.entries(of).map(([compatible, changes]) => ({ compatible: Id.parse(compatible), changes }));

test('what is new is named once, with the hardware that it is new for', () => {
  const from = contents({ gw2: ['GW-1'], gw3: ['GW-1', 'GW-2'] });
  const to = contents({ gw2: ['GW-1', 'GW-2', 'GW-3'], gw3: ['GW-1', 'GW-2', 'GW-3'] });
  expect(addedChanges(from, to)).toEqual([
    { change: 'GW-2', compatibles: ['gw2'] },
    { change: 'GW-3', compatibles: ['gw2', 'gw3'] },
  ]);
  expect(addedChanges(to, from)).toEqual([]);
});

test('hardware that is new in a release is compared with all of the other one', () => {
  const from = contents({ gw2: ['GW-1'] });
  const to = contents({ gw2: ['GW-1'], gw4: ['GW-1', 'GW-9'] });
  expect(addedChanges(from, to)).toEqual([{ change: 'GW-9', compatibles: ['gw4'] }]);
});

test('with the same hardware on both sides, adding what was added and taking what was removed leads from one to the other', () => {
  const changes = fc.uniqueArray(fc.constantFrom<string>('a', 'b', 'c', 'd', 'e'));
  fc.assert(
    fc.property(fc.array(fc.tuple(changes, changes), { maxLength: 4 }), (pairs) => {
      const side = (which: 0 | 1) => contents(Object.fromEntries(pairs.map((pair, n) => [`gw${n}`, pair[which]])));
      const [from, to] = [side(0), side(1)];
      const added = addedChanges(from, to);
      const removed = addedChanges(to, from);
      for (const [index, { compatible, changes: before }] of from.entries()) {
        const now = new Set(before);
        for (const { change, compatibles } of removed) if (compatibles.includes(compatible)) now.delete(change);
        for (const { change, compatibles } of added) if (compatibles.includes(compatible)) now.add(change);
        expect(now).toEqual(new Set(to[index]!.changes));
      }
      expect(addedChanges(from, from)).toEqual([]);
    }),
  );
});

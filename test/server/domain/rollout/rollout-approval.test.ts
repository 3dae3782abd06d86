import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Rollout } from '#server/domain/rollout/rollout.ts';
import { stepRollout } from '#server/domain/rollout/rollout-step.ts';
import { Id } from '#shared/ids.ts';
import { Policy } from '#shared/policy.ts';

const NOW = 1_800_000_000_000;
const waiting = (needed: number): Rollout => ({
  id: Id.parse('r-1'),
  product: Id.parse('gateway'),
  version: '1.4.0',
  channel: Id.parse('production'),
  cohorts: [],
  policy: Policy.parse({}),
  waveSizes: [1],
  createdAt: NOW,
  createdBy: 'ada',
  progress: { state: 'awaiting-approval', needed, approvedBy: [], startAt: NOW },
});

test('whatever people approve in whatever order, it starts exactly when enough different others count at once', () => {
  const person = fc.constantFrom<string>('ada', 'bob', 'carol', 'dan', 'eve');
  const event = fc.record({ by: person, revoked: fc.uniqueArray(person, { maxLength: 3 }) });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 3 }), fc.array(event, { maxLength: 12 }), (needed, events) => {
      let rollout = waiting(needed);
      let said = new Set<string>();
      for (const { by, revoked } of events) {
        const active = ['ada', 'bob', 'carol', 'dan', 'eve'].filter((name) => !revoked.includes(name));
        const before = rollout;
        const isOpen = before.progress.state === 'awaiting-approval';
        const isAllowed = isOpen && by !== 'ada' && active.includes(by);
        if (isAllowed) said = new Set([...said, by].filter((name) => active.includes(name)));
        const step = stepRollout(before, { kind: 'approve', by, note: '', active }, { now: NOW, bins: [] });
        rollout = step.next;
        expect(step.refused === null).toBe(isAllowed);
        expect(rollout.progress.state).toBe(said.size >= needed ? 'scheduled' : 'awaiting-approval');
        // Every change has its line, and nothing else has one.
        const lines = rollout === before ? [] : [{ kind: 'rollout-approved', by, needed, approvedBy: [...said] }];
        expect(step.audit).toMatchObject(lines);
        expect(step.audit).toHaveLength(lines.length);
      }
    }),
  );
});

import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Drifting, stepDrift, type Trial } from '#server/domain/device/drift.ts';
import type { Running } from '#shared/deployment.ts';
import { Id, Sha256 } from '#shared/ids.ts';

const HOUR = 3_600_000;
const T0 = 1_800_000_000_000;
const running = (version: string): Running => ({
  product: Id.parse('gateway'),
  version,
  manifest: Sha256.parse(version.slice(0, 1).repeat(64)),
  slot: 'a',
});
const device = (more: Partial<Drifting> = {}): Drifting => ({
  device: Id.parse('gw-1'),
  running: running('1.0.0'),
  expected: running('1.0.0'),
  driftedAt: null,
  toldAt: null,
  deployment: null,
  ...more,
});
const trial = (more: Partial<Trial> = {}): Trial => ({
  id: Id.parse('r1-1'),
  state: 'overdue',
  offeredAt: T0,
  manifest: running('2.0.0').manifest,
  ...more,
});
const kinds = (step: ReturnType<typeof stepDrift>) => step?.audit.map(({ kind }) => kind);

test('what a device runs when it is first heard is what it should run', () => {
  expect(stepDrift(device({ expected: null }), undefined, T0)).toMatchObject({
    next: { expected: { version: '1.0.0' }, driftedAt: null },
    audit: [],
  });
  expect(stepDrift(device(), undefined, T0)).toBeUndefined();
});

test('a device that runs something else drifts, is told, and no more when it is back', () => {
  const began = stepDrift(device({ running: running('2.0.0') }), undefined, T0);
  expect(began).toMatchObject({ next: { driftedAt: T0, toldAt: T0 } });
  expect(kinds(began)).toEqual(['device-drifted']);
  expect(stepDrift(began!.next, undefined, T0 + 1)).toBeUndefined();
  const ended = stepDrift({ ...began!.next, running: running('1.0.0') }, undefined, T0 + 2);
  expect(ended).toMatchObject({ next: { driftedAt: null }, audit: [{ kind: 'drift-ended', deployment: null }] });
});

test('while a deployment owns it, or it is on trial of what the server gave it, it does not drift', () => {
  const other = device({ running: running('2.0.0') });
  expect(stepDrift({ ...other, deployment: Id.parse('r1-1') }, undefined, T0)).toBeUndefined();
  expect(stepDrift(other, trial(), T0)).toBeUndefined();
  expect(kinds(stepDrift(other, trial({ state: 'failed' }), T0))).toEqual(['device-drifted']);
  expect(kinds(stepDrift(other, trial({ offeredAt: null }), T0))).toEqual(['device-drifted']);
  expect(kinds(stepDrift(other, trial({ manifest: running('3.0.0').manifest }), T0))).toEqual(['device-drifted']);
});

test('whatever it runs, and when: one drift an hour is told at most, and each end that is told ends one that was told', () => {
  const moments = fc.array(
    fc.record({
      afterMs: fc.integer({ min: 1, max: HOUR }),
      version: fc.constantFrom('1.0.0', '2.0.0'),
      owned: fc.boolean(),
    }),
    { maxLength: 40 },
  );
  fc.assert(
    fc.property(moments, (all) => {
      let now = T0;
      let known = device();
      const told: { kind: string; at: number }[] = [];
      for (const { afterMs, version, owned } of all) {
        now += afterMs;
        known = { ...known, running: running(version), deployment: owned ? Id.parse('r1-1') : null };
        const step = stepDrift(known, undefined, now);
        for (const kind of kinds(step) ?? []) told.push({ kind, at: now });
        known = step?.next ?? known;
        expect(known.driftedAt === null).toBe(owned || version === '1.0.0');
      }
      const drifts = told.filter(({ kind }) => kind === 'device-drifted');
      expect(drifts.every(({ at }, index) => index === 0 || at - drifts[index - 1]!.at >= HOUR)).toBe(true);
      const ends = told
        .map(({ kind }, index) => [kind, told[index - 1]?.kind])
        .filter(([kind]) => kind === 'drift-ended');
      expect(ends.every(([, before]) => before === 'device-drifted')).toBe(true);
    }),
  );
});

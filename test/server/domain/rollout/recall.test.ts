import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { HaltReason } from '#server/domain/halt-reason.ts';
import {
  type Destination,
  type Recallable,
  recalledOf,
  recallsByItself,
  recallWords,
  sortRecall,
} from '#server/domain/rollout/recall.ts';
import { stepRollout } from '#server/domain/rollout/rollout-step.ts';
import { Id, Sha256 } from '#shared/ids.ts';
import { STAYS } from '#shared/recall.ts';
import { BAD, fleetOf, GOOD } from './fleet.ts';

const id = (text: string): Id => Id.parse(text);
const digest = (seed: number): Sha256 => Sha256.parse(seed.toString(16).padStart(64, '0'));
const OLD: Destination = {
  product: id('gateway'),
  version: '1.0.0',
  state: 'staged',
  channel: id('production'),
  bundles: [{ compatible: id('gw2'), manifest: digest(1), securityCounter: 2 }],
};
const OLDER: Destination = { ...OLD, version: '0.9.0', bundles: [{ ...OLD.bundles[0]!, manifest: digest(2) }] };
const device = (name: string, more: Partial<Recallable> = {}): Recallable => ({
  device: id(name),
  cohort: id('everyone'),
  compatible: id('gw2'),
  state: 'committed',
  before: { product: id('gateway'), version: '1.0.0', manifest: digest(1), slot: 'a' },
  floor: 0,
  isLetIn: true,
  ...more,
});
const ranManifest = (seed: number) => ({
  product: id('gateway'),
  version: 'any',
  manifest: digest(seed),
  slot: 'b' as const,
});

describe('who goes back where', () => {
  test('each to the release that it ran, by its manifest', () => {
    const devices = [device('gw-1'), device('gw-2', { before: ranManifest(2) }), device('gw-3')];
    expect(sortRecall(devices, [OLD, OLDER], undefined)).toEqual({
      groups: [
        { destination: OLD, devices: [devices[0], devices[2]] },
        { destination: OLDER, devices: [devices[1]] },
      ],
      stays: [],
    });
  });

  test.each([
    [{ before: null }, OLD, 'ran-nothing'],
    [{ before: null, state: 'skipped' }, OLD, 'not-by-this'],
    [{ before: ranManifest(9) }, OLD, 'unknown-release'],
    [{}, { ...OLD, state: 'withdrawn', channel: null }, 'withdrawn'],
    [{}, { ...OLD, state: 'accepted', channel: null }, 'not-staged'],
    [{ compatible: id('gw9') }, OLD, 'other-hardware'],
    [{ floor: 3 }, OLD, 'below-floor'],
    [{ isLetIn: false }, OLD, 'shut-out'],
  ] as [Partial<Recallable>, Destination, string][])('who cannot stays, with the reason %#', (more, known, reason) => {
    expect(sortRecall([device('gw-1', more)], [known], undefined)).toEqual({
      groups: [],
      stays: [{ device: 'gw-1', reason }],
    });
  });

  test('to a release by name goes also who ran nothing before', () => {
    const devices = [device('gw-1', { before: null }), device('gw-2', { before: ranManifest(9) })];
    expect(sortRecall(devices, [], OLDER)).toEqual({ groups: [{ destination: OLDER, devices }], stays: [] });
  });

  test('everyone is in one group or stays, no one below the floor goes, and no one to what was withdrawn', () => {
    const anyDevice = fc.record({
      floor: fc.nat(4),
      seed: fc.option(fc.nat(4)),
      state: fc.constantFrom('committed', 'failed', 'skipped'),
      isLetIn: fc.boolean(),
    });
    const anyPlace = fc.record({
      seed: fc.nat(4),
      counter: fc.nat(4),
      state: fc.constantFrom('accepted', 'staged', 'withdrawn'),
    });
    fc.assert(
      fc.property(fc.array(anyDevice), fc.array(anyPlace), fc.option(fc.nat()), (drawn, places, chosen) => {
        const devices = drawn.map(({ floor, seed, state, isLetIn }, index) =>
          device(`gw-${index}`, { floor, state, isLetIn, before: seed === null ? null : ranManifest(seed) }),
        );
        const known = places.map(
          ({ seed, counter, state }): Destination => ({
            ...OLD,
            state,
            channel: state === 'staged' ? OLD.channel : null,
            bundles: [{ compatible: id('gw2'), manifest: digest(seed), securityCounter: counter }],
          }),
        );
        const { groups, stays } = sortRecall(devices, known, chosen === null ? undefined : known[chosen % 5]);
        const going = groups.flatMap((group) => group.devices.map((one) => ({ ...one, to: group.destination })));
        expect([...going, ...stays].map((one) => one.device).sort()).toEqual(devices.map((one) => one.device).sort());
        for (const { floor, to } of going) {
          expect(to.state).toBe('staged');
          expect(to.bundles[0]!.securityCounter).toBeGreaterThanOrEqual(floor);
        }
      }),
    );
  });
});

describe('by itself', () => {
  const fleet = (onHalt: 'hold' | 'recall') =>
    fleetOf({ devices: 40, behaviour: (n) => (n % 2 === 0 ? GOOD : BAD), policy: { onHalt } });
  const haltOf = (onHalt: 'hold' | 'recall') => {
    const rollout = fleet(onHalt);
    rollout.run();
    return rollout;
  };
  const happened: HaltReason = { kind: 'release-withdrawn', by: 'ada' };
  const unheard: HaltReason = {
    kind: 'gate-unreachable',
    wave: 0,
    committed: 0,
    failed: 0,
    reachable: 0,
    needed: 0,
    neverHeard: 2,
  };

  test('a halt recalls where the policy says so, but not a recall, and not when no one was heard', () => {
    const rollout = fleet('recall').rollout;
    expect(recallsByItself(rollout, happened)).toBe(true);
    expect(recallsByItself(rollout, unheard)).toBe(false);
    expect(recallsByItself({ ...rollout, recalls: id('r-0') }, happened)).toBe(false);
    expect(recallsByItself(fleet('hold').rollout, happened)).toBe(false);
  });

  test('the halt carries it, is due at once, and cannot be resumed any more', () => {
    const rollout = haltOf('recall');
    const halted = rollout.rollout;
    expect(recalledOf(halted.progress)).toMatchObject({ by: 'server' });
    const refused = rollout.happen({ kind: 'resume', by: 'ada', note: 'it was the network' });
    expect(refused.refused).toMatchObject({ code: 'conflict', detail: expect.stringContaining('recalled') });
    const aborted = rollout.happen({ kind: 'abort', by: 'ada', note: '' });
    expect(recalledOf(aborted.next.progress)).toEqual(recalledOf(halted.progress));
  });

  test('where no one goes back, a halt that recalled can be resumed', () => {
    const { rollout: halted } = haltOf('recall');
    const resume = { kind: 'resume', by: 'ada', note: 'it was the network' } as const;
    const facts = { now: 1_000_000_000, bins: [] };
    expect(stepRollout(halted, resume, { ...facts, goingBack: 1 }).refused).toMatchObject({ code: 'conflict' });
    const resumed = stepRollout(halted, resume, { ...facts, goingBack: 0 });
    expect(resumed.refused).toBeNull();
    expect(recalledOf(resumed.next.progress)).toBeUndefined();
  });

  test('a person recalls what was halted, and no one what still runs', () => {
    const rollout = haltOf('hold');
    expect(recalledOf(rollout.rollout.progress)).toBeUndefined();
    const step = rollout.happen({ kind: 'recall', by: 'ada', note: 'GW-31' });
    expect(step).toMatchObject({ refused: null, audit: [{ kind: 'rollout-recalled', to: null, note: 'GW-31' }] });
    expect(recalledOf(step.next.progress)).toMatchObject({ by: 'ada' });
    const running = fleet('hold');
    running.happen({ kind: 'tick' });
    expect(running.happen({ kind: 'recall', by: 'ada', note: '' }).refused).toMatchObject({
      detail: expect.stringContaining('Halt or abort it first'),
    });
  });
});

test('what became of it, in words', () => {
  const recalled = { at: 0, by: 'ada', note: '' };
  const back = [{ id: id('r-1-r1'), release: 'gateway@1.0.0', devices: 5 }];
  expect(recallWords(recalled, back, [{ reason: 'below-floor', devices: 2 }])).toBe(
    ` Recalled by ada: 5 back to gateway@1.0.0 with r-1-r1. 2 cannot go back (2: ${STAYS['below-floor']}).`,
  );
  expect(recallWords({ ...recalled, by: 'server' }, [], [])).toBe(' Recalled by its policy: no one goes back.');
});

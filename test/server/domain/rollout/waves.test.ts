import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { planWaves, queueHash, type WaveCohort, waveWithoutGrowth } from '#server/domain/rollout/waves.ts';
import { Id } from '#shared/ids.ts';
import { CohortPlan } from '#shared/policy.ts';

const cohort = (name: string, devices: string[], waves?: object[]): WaveCohort => ({
  plan: CohortPlan.parse({ cohort: name, ...(waves ? { waves } : {}) }),
  devices: devices.map((id) => ({ id: Id.parse(id), compatible: Id.parse('gw') })),
});
const names = (count: number, prefix = 'gw'): string[] => Array.from({ length: count }, (_, n) => `${prefix}-${n}`);

test('shares and counts are cumulative within their cohort', () => {
  const plan = planWaves([cohort('all', names(200), [{ count: 5 }, { percent: 10 }, { percent: 100 }])], 'r-1');
  expect(plan.waveSizes).toEqual([5, 15, 180]);
  expect(plan.left).toEqual([]);
});

test('a cohort without waves goes all at once', () => {
  expect(planWaves([cohort('all', names(8))], 'r-1').waveSizes).toEqual([8]);
});

test('a share of a small cohort is at least one device, and exact shares stay exact', () => {
  expect(planWaves([cohort('all', names(8), [{ percent: 1 }, { percent: 100 }])], 'r-1').waveSizes).toEqual([1, 7]);
  expect(planWaves([cohort('all', names(100), [{ percent: 55 }, { percent: 100 }])], 'r-1').waveSizes).toEqual([
    55, 45,
  ]);
});

test('a wave that would be empty is left out', () => {
  expect(
    planWaves([cohort('all', names(3), [{ count: 3 }, { percent: 50 }, { percent: 100 }])], 'r-1').waveSizes,
  ).toEqual([3]);
  expect(planWaves([cohort('none', []), cohort('all', names(2))], 'r-1').waveSizes).toEqual([2]);
});

test('waves that do not grow are found, each unit by itself', () => {
  expect(waveWithoutGrowth([{ percent: 50 }, { percent: 20 }])).toEqual({ percent: 20 });
  expect(waveWithoutGrowth([{ count: 5 }, { percent: 10 }, { count: 5 }])).toEqual({ count: 5 });
  expect(waveWithoutGrowth([{ count: 50 }, { percent: 10 }, { count: 60 }, { percent: 100 }])).toBeUndefined();
});

test('a device in several cohorts belongs to the first that takes it', () => {
  const plan = planWaves([cohort('canaries', names(10), [{ count: 2 }]), cohort('all', names(20))], 'r-1');
  expect(plan.waveSizes).toEqual([2, 18]);
  expect(plan.left).toEqual([]);
});

test('devices beyond the last wave of their only cohort are left, by name', () => {
  const plan = planWaves([cohort('all', names(10), [{ percent: 30 }])], 'r-1');
  expect(plan.waveSizes).toEqual([3]);
  expect(plan.left).toHaveLength(7);
});

test('the hash is the same forever: plans are frozen, but tests and simulations are repeated', () => {
  expect(queueHash('r-1', 'gw-01')).toBe(8639191916444131);
  expect(queueHash('r-2', 'gw-01')).toBe(2993852470990126);
});

test('the same device is not always the canary', () => {
  const canaries = new Set(
    Array.from({ length: 200 }, (_, n) => planWaves([cohort('all', names(20), [{ count: 1 }])], `r-${n}`)).map(
      (plan) => plan.placements[0]!.device,
    ),
  );
  expect(canaries.size).toBe(20);
});

test('hashes spread evenly: of 10,000 devices in ten waves each wave draws alike from every block of names', () => {
  const counts = Array.from({ length: 10 }, () => 0);
  for (const name of names(10_000)) counts[Math.floor((queueHash('r-1', name) / 2 ** 53) * 10)]! += 1;
  for (const count of counts) expect(Math.abs(count - 1000)).toBeLessThan(150);
});

const anyCohorts = fc.array(
  fc.record({
    devices: fc.uniqueArray(fc.integer({ min: 0, max: 60 }), { maxLength: 50 }),
    waves: fc.array(
      fc.oneof(
        fc.record({ count: fc.integer({ min: 1, max: 60 }) }),
        fc.record({ percent: fc.double({ min: 0.5, max: 100, noNaN: true }) }),
      ),
      { minLength: 1, maxLength: 5 },
    ),
  }),
  { maxLength: 4 },
);
const build = (cohorts: { devices: number[]; waves: object[] }[]): WaveCohort[] =>
  cohorts.map(({ devices, waves }, n) =>
    cohort(
      `c${n}`,
      devices.map((d) => `gw-${d}`),
      waves,
    ),
  );

test('every device is in one place, or left; sizes and positions agree', () => {
  fc.assert(
    fc.property(anyCohorts, (some) => {
      const plan = planWaves(build(some), 'seed');
      const everybody = new Set(some.flatMap(({ devices }) => devices.map((d) => `gw-${d}`)));
      const placed = plan.placements.map(({ device }) => device);
      expect(new Set([...placed, ...plan.left])).toEqual(everybody);
      expect(placed.length + plan.left.length).toBe(everybody.size);
      expect(plan.waveSizes.every((size) => size > 0)).toBe(true);
      plan.waveSizes.forEach((size, wave) => {
        const positions = plan.placements.filter((one) => one.wave === wave).map(({ position }) => position);
        expect(positions).toEqual(Array.from({ length: size }, (_, n) => n));
      });
    }),
  );
});

test('the plan depends on who is in the cohort, not on the order in which they are named', () => {
  fc.assert(
    fc.property(anyCohorts, (some) => {
      const turned = some.map(({ devices, waves }) => ({ devices: [...devices].reverse(), waves }));
      expect(planWaves(build(turned), 'seed').placements).toEqual(planWaves(build(some), 'seed').placements);
    }),
  );
});

test('raising the last share only adds devices: what was in, stays in', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 80 }),
      fc.integer({ min: 1, max: 99 }),
      fc.integer({ min: 0, max: 50 }),
      (count, percent, more) => {
        const of = (share: number) =>
          new Set(
            planWaves([cohort('all', names(count), [{ percent: Math.min(100, share) }])], 's').placements.map(
              (p) => p.device,
            ),
          );
        const larger = of(percent + more);
        expect([...of(percent)].every((device) => larger.has(device))).toBe(true);
      },
    ),
  );
});

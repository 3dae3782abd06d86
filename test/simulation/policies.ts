/** Plans with whatever a plan may say, by chance: judge, waves, windows, activation, priority, retries, watch, ends. */
import { type CohortPlan, Policy } from '#shared/policy.ts';
import { MaintenanceWindow } from '#shared/windows.ts';
import type { Random } from './random.ts';
import { COHORTS, SELECTED } from './releases.ts';
import type { World } from './world.ts';

const MINUTE_MS = 60_000;
/** Whole, half and three quarter hours from UTC; with and without a change of clocks. */
export const ZONES = [
  'UTC',
  'Europe/Paris',
  'Asia/Kolkata',
  'Asia/Kathmandu',
  'Australia/Lord_Howe',
  'America/St_Johns',
];

const windowsOf = (random: Random): MaintenanceWindow[] =>
  Array.from({ length: random.between(1, 2) }, () =>
    MaintenanceWindow.parse({
      cron: `${random.between(0, 59)} ${random.chance(0.9) ? '*' : '*/2'} * * *`,
      durationMs: random.between(8, 45) * MINUTE_MS,
      timeZone: random.pick(ZONES),
      ofDevice: random.chance(0.7),
    }),
  );

const judgeOf = (world: World, random: Random): unknown => {
  if (!world.uses('simple-rules') || random.chance(0.7))
    return { rule: 'evidence', limit: 0.05 + random.next() * 0.1, budget: random.between(2, 6) };
  const percent = random.between(5, 40);
  return random.chance(0.5)
    ? { rule: 'wave-percentage', percent }
    : { rule: 'percentage-after-minimum', percent, minimum: random.between(1, 4) };
};

const policyOf = (world: World, random: Random): Policy => {
  const now = world.time.now();
  const outcomeMs = random.between(4, 15) * MINUTE_MS;
  const acceptMs = random.between(3, 20) * MINUTE_MS;
  const atRiskMax = random.pick([3, 6, 1_000]);
  // Drawn whether used or not, so that leaving one thing out changes nothing else.
  const retries = { max: random.between(0, 3), coolDownMs: random.between(10, 300) * 1_000 };
  const watchMs = random.between(5, 30) * MINUTE_MS;
  const watch = { watchMs, unhealthyMs: random.between(1, 4) * MINUTE_MS, restartsMax: random.between(0, 3) };
  const windows = windowsOf(random);
  const activation = random.chance(0.5) ? 'on-command' : now + random.between(5, 40) * MINUTE_MS;
  const [hasWindows, isSeparate] = [random.chance(0.4), random.chance(0.4)];
  const priority = random.pick([20, 50, 50, 90]);
  const isRecalled = random.chance(0.5);
  const of = (share: number): number => Math.ceil(outcomeMs * share);
  const parts = { fetchMs: of(0.5), installMs: of(0.7), readyMs: of(0.8), trialMs: of(0.6) };
  const confirm = random.chance(0.5) ? 'when-reachable' : 'required';
  return Policy.parse({
    judge: judgeOf(world, random),
    gate: { successShare: random.pick([0.5, 0.8, 0.9]), soakMs: random.between(5, 60) * 1_000 },
    deadlines: { acceptMs, outcomeMs, ...(world.uses('deadlines') ? parts : {}) },
    confirm: world.uses('unconfirmed') ? confirm : 'required',
    limits: { startsPerMinute: random.pick([6, 60, 1_000]), atRiskMax },
    retries: world.uses('retries') ? retries : { max: 0 },
    watch: world.uses('watch') ? watch : { watchMs: 0 },
    ...(world.uses('windows') && hasWindows ? { windows } : {}),
    ...(world.uses('activation') && isSeparate ? { activation } : {}),
    ...(world.uses('priorities') ? { priority } : {}),
    ...(world.uses('recall') && isRecalled ? { onHalt: 'recall' } : {}),
  });
};

const cohortsOf = (world: World, random: Random): CohortPlan[] => {
  const waves = random.pick([
    [{ percent: 100 }],
    [{ count: 2 }, { percent: 100 }],
    [{ percent: 10 }, { percent: 50 }, { percent: 100 }],
  ]);
  const [alone, follows, early] = [random.chance(0.7), random.chance(0.6), random.chance(0.5)];
  const windows = windowsOf(random);
  const own = world.uses('windows') && random.chance(0.2) ? { windows } : {};
  const all = world.uses('follow') && follows ? { cohort: SELECTED.everyone, follow: true } : { cohort: COHORTS[1]! };
  const last: CohortPlan = { ...all, waves, ...own };
  if (alone) return [last];
  const first = world.uses('follow') && early ? { cohort: SELECTED.early, follow: true } : { cohort: COHORTS[0]! };
  return [{ ...first, waves: [{ percent: 100 }] }, last];
};

export type Draft = { cohorts: CohortPlan[]; policy: Policy; startAt?: number; endBy?: number };
export const draftOf = (world: World, random: Random): Draft => {
  const now = world.time.now();
  const [policy, cohorts] = [policyOf(world, random), cohortsOf(world, random)];
  const [startAt, endBy] = [now + random.between(1, 10) * MINUTE_MS, now + random.between(15, 60) * MINUTE_MS];
  const [isLater, isLimited] = [random.chance(0.2), random.chance(0.4)];
  return {
    policy,
    cohorts,
    ...(isLater ? { startAt } : {}),
    ...(world.uses('end-by') && isLimited ? { endBy } : {}),
  };
};

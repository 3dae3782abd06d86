/**
 * Rollouts as they happen, on the real flows and store: what the golden histories are recorded from. The same each
 * time, but for what the code decides.
 */

import type { DeploymentRecord } from '#server/domain/deployment/deployment.ts';
import { type Decision, readRecord } from '#server/domain/rollout/decision.ts';
import { resumeRollout } from '#server/flow/rollout/resume-rollout.ts';
import { steerRollout } from '#server/flow/rollout/steer-rollout.ts';
import { Id } from '#shared/ids.ts';
import type { Policy } from '#shared/policy.ts';
import {
  deploymentsOf,
  enrolFleet,
  must,
  openWorld,
  releaseOf,
  report,
  run,
  startRollout,
  type World,
} from '../server/flow/world.ts';

/** A decision as it is kept, the record as it is written, and what it led to. */
export type KeptHistory = {
  what: string;
  decisions: { n: number; sha256: string; offered: number; skipped: number; withdrawn: number; record: unknown }[];
};
export const decisionsIn = ({ decisions }: KeptHistory): Decision[] =>
  decisions.map(({ record }) => readRecord(JSON.stringify(record)));

const SECOND = 1_000;
const HOUR = 3_600_000;
type Told = 'commits' | 'reverts' | 'keeps silent';

/** One rollout, and the hands of its devices and operators. */
type Play = {
  world: World;
  rollout: Id;
  /** Devices that have an offer take it up, and `outcomeMs` later turn out as `told` says, by their number. */
  devices(told: (n: number) => Told, outcomeMs?: number): Promise<void>;
  /** Time goes by, second by second. */
  wait(ms: number, stepMs?: number): Promise<void>;
  steer(verb: 'pause' | 'abort' | 'activate' | 'resume', note?: string): Promise<void>;
};
const numberOf = ({ device }: DeploymentRecord): number => Number(device.slice(3));

const playOf = (world: World, rollout: Id): Play => {
  const offered = async (): Promise<DeploymentRecord[]> =>
    (await deploymentsOf(world, rollout))
      .filter(({ state }) => state === 'offered')
      .sort((a, b) => numberOf(a) - numberOf(b));
  const play: Play = {
    world,
    rollout,
    devices: async (told, outcomeMs = 30 * SECOND) => {
      const some = await offered();
      for (const one of some) await report(world, one, { state: 'fetching' });
      await play.wait(outcomeMs);
      for (const one of some) {
        const outcome = told(numberOf(one));
        if (outcome !== 'keeps silent')
          await report(world, one, { outcome: outcome === 'commits' ? 'committed' : 'reverted' });
        await run(world, rollout);
      }
    },
    wait: async (ms, stepMs = 5 * SECOND) => {
      for (let passed = 0; passed < ms; passed += stepMs) {
        world.pass(Math.min(stepMs, ms - passed));
        await run(world, rollout);
      }
    },
    steer: async (verb, note = '') => void must(await steerRollout(world, { rollout, verb, note, by: 'ada' })),
  };
  return play;
};

type Scenario = {
  what: string;
  devices: number;
  waves?: { count: number }[];
  policy?: Parameters<typeof Policy.parse>[0];
  /** Before the rollout starts. */
  before?: (world: World) => Promise<void>;
  acts: (play: Play) => Promise<void>;
};
const healthy = (): Told => 'commits';
const until = async (play: Play, state: string, act: () => Promise<void>): Promise<void> => {
  for (let round = 0; round < 40; round += 1) {
    if ((await play.world.store.getRollout(play.rollout))?.progress.state === state) return;
    await act();
  }
  throw new Error(`the rollout is not ${state}`);
};

export const SCENARIOS: Record<string, Scenario> = {
  'good-in-waves': {
    what: 'a good release goes through three waves at the pace that the judge allows',
    devices: 30,
    waves: [{ count: 2 }, { count: 10 }, { count: 30 }],
    policy: { judge: { rule: 'evidence', budget: 3 }, limits: { startsPerMinute: 60 } },
    acts: (play) =>
      until(play, 'completed', async () => {
        await play.devices(healthy);
        await play.wait(20 * SECOND);
      }),
  },
  'halt-on-evidence': {
    what: 'half of the devices revert: halted on evidence, with offers withdrawn',
    devices: 12,
    policy: { gate: { successShare: 0 } },
    acts: (play) => until(play, 'halted', () => play.devices((n) => (n % 2 === 0 ? 'reverts' : 'commits'))),
  },
  'halt-on-budget': {
    what: 'one device falls silent, which is one more than the budget allows',
    devices: 8,
    policy: { judge: { rule: 'evidence', budget: 1 }, gate: { successShare: 0 }, deadlines: { outcomeMs: HOUR } },
    acts: (play) =>
      until(play, 'halted', async () => {
        await play.devices((n) => (n === 3 ? 'keeps silent' : 'commits'));
        await play.wait(10 * 60 * SECOND, 60 * SECOND);
      }),
  },
  'gate-and-soak': {
    what: 'a gate is met, missed when a device regresses while the wave soaks, and met again',
    devices: 6,
    waves: [{ count: 3 }, { count: 6 }],
    policy: { gate: { successShare: 0.6, soakMs: 120 * SECOND } },
    acts: async (play) => {
      const { world, rollout } = play;
      const [first, second, last] = (await deploymentsOf(world, rollout)).filter(({ state }) => state === 'offered');
      for (const one of [first!, second!, last!]) await report(world, one, { state: 'fetching' });
      for (const one of [first!, second!]) await report(world, one, { outcome: 'committed' });
      await play.wait(60 * SECOND);
      await report(world, second!, { outcome: 'reverted' });
      await play.wait(30 * SECOND);
      await report(world, last!, { outcome: 'committed' });
      await play.wait(200 * SECOND);
      await until(play, 'completed', () => play.devices(healthy));
    },
  },
  'pause-resume-acknowledge': {
    what: 'paused and resumed by a person, halted by the judge, resumed with one failure acknowledged and then with all',
    devices: 6,
    policy: { judge: { rule: 'percentage-after-minimum', percent: 20, minimum: 2 }, gate: { successShare: 0 } },
    acts: async (play) => {
      const { world, rollout } = play;
      await play.steer('pause', 'the network is down in Lyon');
      await play.wait(10 * SECOND);
      await play.steer('resume');
      await play.devices((n) => (n <= 3 ? 'reverts' : 'keeps silent'), 10 * SECOND);
      const resume = async (acknowledge: 'all' | Id[]): Promise<void> =>
        void must(await resumeRollout(world, { rollout, note: 'a wet cabinet', by: 'bob', acknowledge }));
      await resume([Id.parse('gw-1')]);
      await play.wait(10 * SECOND);
      await resume('all');
      await until(play, 'completed', () => play.devices(healthy));
    },
  },
  'windows-and-activation': {
    what: 'nothing is offered before the window opens, and what is installed waits for a command',
    devices: 3,
    policy: {
      windows: [{ cron: '0 2 * * *', durationMs: 2 * HOUR }],
      activation: 'on-command',
    },
    acts: async (play) => {
      await play.wait(2 * HOUR + 60 * SECOND, 600 * SECOND);
      const all = await deploymentsOf(play.world, play.rollout);
      for (const one of all) {
        await report(play.world, one, { state: 'fetching' });
        await report(play.world, one, { state: 'ready' });
      }
      await play.wait(60 * SECOND, 30 * SECOND);
      await play.steer('activate', 'the release party');
      await play.wait(10 * SECOND);
      for (const one of all) await report(play.world, one, { outcome: 'committed' });
      await until(play, 'completed', () => play.wait(10 * SECOND));
    },
  },
  'waits-for-a-hotfix': {
    what: 'an urgent rollout has the devices; the other waits, and goes on afterwards',
    devices: 3,
    before: async (world) => {
      await releaseOf(world, '1.2.0');
      world.newId = () => Id.parse('ro-urgent');
      await startRollout(world, '1.2.0', { policy: { priority: 90 } });
    },
    acts: async (play) => {
      const urgent = playOf(play.world, Id.parse('ro-urgent'));
      await play.wait(30 * SECOND);
      await urgent.devices(healthy);
      await urgent.wait(10 * SECOND);
      await until(play, 'completed', () => play.devices(healthy));
    },
  },
  aborted: {
    what: 'a person ends it while devices are under way',
    devices: 4,
    policy: { limits: { atRiskMax: 2 } },
    acts: async (play) => {
      await play.wait(20 * SECOND);
      await play.devices(healthy);
      await play.wait(10 * SECOND);
      await play.steer('abort', 'GW-31');
    },
  },
};

/** Plays it, and returns what was recorded, oldest first. */
export const play = async ({ what, devices, waves, policy, before, acts }: Scenario): Promise<KeptHistory> => {
  const world = await openWorld();
  try {
    await enrolFleet(world, devices);
    await releaseOf(world, '1.0.0');
    await before?.(world);
    world.newId = () => Id.parse('ro-golden');
    const rollout = await startRollout(world, '1.0.0', {
      ...(waves === undefined ? {} : { waves }),
      policy: policy ?? {},
    });
    await acts(playOf(world, rollout));
    const kept = await world.store.listDecisions(rollout, { limit: 1_000 });
    return {
      what,
      decisions: kept.reverse().map(({ n, sha256, offered, skipped, withdrawn, record }) => ({
        n,
        sha256,
        offered,
        skipped,
        withdrawn,
        record: JSON.parse(record!) as unknown,
      })),
    };
  } finally {
    await world.close();
  }
};

/** How the device that is explored lives: one life of its agent after the other, until it has nothing left to do. */
import { Id } from '#shared/ids.ts';
import { live } from './life.ts';
import type { Disk, Step, User } from './mount.ts';
import { judgeEnd, look, noteActivated, noteStep, violate } from './witness.ts';
import { type Death, newLife, type World } from './world.ts';

const LIVES_MAX = 25;
const LIFE_MS_MAX = 2 * 3_600_000;
/** With a disk that refuses it may wait forever for one that does not. */
const REFUSED_MS_MAX = 5 * 60_000;

/** Its disk and its programs, as its agent finds them. */
const userOf = (world: World): User => {
  const { exploration, quiet, device, now } = world;
  const { scenario, plant = {} } = exploration;
  const step = (next: Step): boolean => {
    if (now.onStep(next)) now.life.process.dead = true;
    else noteStep(world, next);
    return now.life.process.dead;
  };
  return {
    ...quiet,
    isDead: () => now.life.process.dead,
    step,
    disk: () => now.disk,
    forgets: plant.forgets ?? (() => false),
    spoils: (path) => scenario === 'bad-disk' && /\/slots\/b\/|\/slot-b$|\/bank-b$/.test(path),
    run: (command) => {
      if (device.startsTrial(command)) noteActivated(world, 'the trial starts');
      if (command[0] !== 'power-cycle')
        return device.run(command, (path) => step({ call: 'fw_setenv', path, durable: true }));
      if (now.life.up?.machine.memory().install.state === 'activating') noteActivated(world, 'the reboot');
      now.life.rebootBy = command;
      now.life.process.dead = true;
      return undefined;
    },
  };
};

const isSettled = ({ now, server }: World): boolean =>
  now.life.up?.machine.memory().install.state === 'idle' &&
  server.receipts().length > 0 &&
  server.last()?.deployment === null;

/** Ends when it dies, has settled, or after so long. */
const liveOn = async (world: World, msMax = LIFE_MS_MAX): Promise<void> => {
  const { exploration, realTime, time, attach, device, server, signer, release, found, now } = world;
  const life = newLife();
  now.life = life;
  found.lives += 1;
  const boot = Id.parse(`boot-${found.lives}`);
  attach(userOf(world));
  const tick = (): void => void time.at(1_000, life.process, tick);
  time.at(0, life.process, tick);
  const start = async (): Promise<void> => {
    const up = await live({
      time,
      device,
      server,
      signer,
      release,
      boot,
      process: life.process,
      onStart: ({ onExit }) => {
        if (onExit === 'report') noteActivated(world, 'the application starts on trial');
      },
      wrap: exploration.plant?.wrap ?? ((slots) => slots),
    });
    if (!life.process.dead) life.up = up;
  };
  time.within(life.process, () => {
    start().catch((error: unknown) => {
      // Also on a disk that refuses: its application has to run.
      if (!life.process.dead) violate(world, `the agent threw ${error instanceof Error ? error.stack : String(error)}`);
      life.process.dead = true;
    });
  });
  await realTime.runUntil(realTime.now() + msMax, () => life.process.dead || isSettled(world));
};

/** The device boots after a reboot, or an agent that has ended. */
const bootAgain = async ({ volume, attach, quiet, device, now }: World): Promise<void> => {
  volume.cut('everything');
  attach(quiet);
  await device.powerOn(now.life.rebootBy);
};

/** From now until the device has nothing left to do. */
export const settle = async (world: World, dieAfter: number): Promise<void> => {
  const { now } = world;
  for (let lives = 0; lives < LIVES_MAX; lives += 1) {
    let left = lives === 0 ? dieAfter : 0;
    const onStepBefore = now.onStep;
    if (left > 0) now.onStep = () => (left -= 1) === 0;
    await liveOn(world);
    now.onStep = onStepBefore;
    if (isSettled(world) && !now.life.process.dead) return judgeEnd(world);
    if (!now.life.process.dead) break;
    if (lives === 0 && dieAfter > 0 && now.life.rebootBy === undefined) await look(world);
    await bootAgain(world);
  }
  violate(world, `it does not settle: ${JSON.stringify(now.life.up?.machine.memory().install)?.slice(0, 300)}`);
  now.life.process.dead = true;
};

/** It dies now, or comes back from a reboot. */
export const die = async (world: World, death: Death): Promise<void> => {
  const { volume, attach, quiet, device, now } = world;
  now.life.process.dead = true;
  if (death !== 'killed') volume.cut(death);
  await look(world);
  attach(quiet);
  if (death !== 'killed' || now.life.rebootBy !== undefined) await device.powerOn(now.life.rebootBy);
};

/** An agent that starts on a disk that refuses: its application runs, and its server hears of it. */
const liveOnRefusing = async (world: World): Promise<void> => {
  const { now, found, server } = world;
  now.life.process.dead = true;
  await bootAgain(world);
  now.onStep = () => false;
  await liveOn(world, REFUSED_MS_MAX);
  if (now.life.rebootBy === undefined && !isSettled(world)) {
    const running = await now.life.up?.slots.running();
    if (running === null || running === undefined) violate(world, 'nothing runs on the disk that refuses');
    if (server.last()?.boot !== `boot-${found.lives}`) violate(world, 'nothing is reported from the disk that refuses');
  }
  now.life.process.dead = true;
};

/**
 * From now on, until the life is over in which the disk begins to refuse, after so many changes, and one more on that
 * disk.
 */
export const liveRefused = async (world: World, steps: number, disk: Disk): Promise<void> => {
  const { now, time } = world;
  let left = steps;
  now.onStep = () => {
    if (left === 0) {
      now.disk = disk;
      const { process } = now.life;
      time.at(REFUSED_MS_MAX, process, () => {
        process.dead = true;
      });
    }
    left -= 1;
    return false;
  };
  for (let lives = 0; lives < LIVES_MAX; lives += 1) {
    await liveOn(world);
    if (left < 0 || !now.life.process.dead) break;
    await bootAgain(world);
  }
  if (left < 0) await liveOnRefusing(world);
  now.onStep = () => false;
  now.disk = 'well';
};

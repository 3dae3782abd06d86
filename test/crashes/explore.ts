/**
 * Crashes an install at every point: it runs once, and each of its changes to the disk is a point. Then, from each, the
 * device dies before that change, by SIGKILL or by a power cut that leaves more or less of what was not flushed, and
 * lives on until it settles. docs/faults.md says what must hold.
 */
import { dirname } from 'node:path';
import { randomOf } from '#test/simulation/random.ts';
import { openTime } from '#test/simulation/time.ts';
import { INSTALLER } from './delegate.ts';
import { DATA, ROOT } from './device.ts';
import { die, liveRefused, settle } from './lives.ts';
import { said } from './log.ts';
import { mountVolume } from './mount.ts';
import { isEnough } from './witness.ts';
import { deadLife, type Exploration, type Found, openWorld, START, type World } from './world.ts';

/** One at a time in a thread: it takes over the clock and the file system. */
export const explore = async (exploration: Exploration): Promise<Found> => {
  const time = openTime(START, randomOf(1, 'time'));
  const mounted = mountVolume(ROOT, ['power-cycle', 'fw_printenv', 'fw_setenv', INSTALLER]);
  const temporary = process.env['TMPDIR'];
  process.env['TMPDIR'] = `${ROOT}/tmp`;
  try {
    mounted.volume.makeFolders(`${ROOT}/tmp`);
    mounted.volume.makeFolders(DATA);
    return await exploreAll(await openWorld(exploration, time, mounted));
  } finally {
    if (temporary === undefined) delete process.env['TMPDIR'];
    else process.env['TMPDIR'] = temporary;
    mounted.unmount();
    time.restore();
  }
};

/** Before a change: what it is, and how the device is put back to there. */
type Moment = { step: string; put: () => void };

const exploreAll = async (world: World): Promise<Found> => {
  const { kind, scenario, deaths, refuses, again = () => 0, onProgress } = world.exploration;
  const { found, now } = world;
  const moments = await runOnce(world);
  found.points = moments.length;
  for (const [point, moment] of moments.entries()) {
    for (const death of deaths(point)) {
      if (isEnough(world.exploration, found)) return found;
      found.recoveries += 1;
      const how = refuses === undefined ? death : `the disk is ${refuses} from there on, then ${death}`;
      now.where = `${kind.name}, ${scenario}, point ${point} (before ${moment.step}), ${how}`;
      said();
      if (refuses === undefined) moment.put();
      else {
        moments[0]!.put();
        await liveRefused(world, point, refuses);
      }
      await die(world, death);
      await settle(world, again(point));
    }
    onProgress?.(point, found);
  }
  return found;
};

/** Once to the end, and every moment of it is kept. */
const runOnce = async (world: World): Promise<Moment[]> => {
  const { volume, server, time, realTime, now } = world;
  const moments: Moment[] = [];
  const keep = (step: string): void => {
    const [putVolume, putServer, at] = [volume.save(), server.save(), time.now()];
    const put = (): void => {
      putVolume();
      putServer();
      now.life = deadLife();
      now.lateMs = realTime.now() - at;
    };
    moments.push({ step, put });
  };
  now.onStep = ({ call, path }) => {
    keep(`${call} ${path.slice(dirname(ROOT).length)}`);
    return false;
  };
  now.where = 'without a crash';
  await settle(world, 0);
  now.onStep = () => false;
  keep('the end');
  return moments;
};

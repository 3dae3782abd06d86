/** What goes wrong by itself from time to time, beside what goes wrong with single messages, calls and operations. */
import type { Device } from './agent.ts';
import type { Network } from './network.ts';
import type { People } from './people.ts';
import type { Random } from './random.ts';
import type { Server } from './server.ts';
import { changeByHand } from './slots.ts';
import type { Witness } from './witness.ts';
import type { Fault, World } from './world.ts';

const MINUTE_MS = 60_000;
const DAY_MS = 86_400_000;

export const scheduleFaults = (all: {
  world: World;
  network: Network;
  server: Server;
  devices: Device[];
  people: People;
  witness: Witness;
}): void => {
  const { world, network, server, devices, people, witness } = all;
  const every = (stream: string, meanMs: number, act: () => void): void => {
    const random = world.random(`when ${stream}`);
    const again = (): void => {
      act();
      world.time.at(random.between(1, 2 * meanMs), undefined, again);
    };
    world.time.at(random.between(1, 2 * meanMs), undefined, again);
  };
  /** Each kind has randomness of its own, so that leaving one out leaves the others as they were. */
  const fault = (name: Fault, meanMs: number, act: (random: Random) => void): void => {
    const random = world.random(`fault ${name}`);
    every(name, meanMs, () => {
      if (world.strikes(name, random, 1)) act(random);
    });
  };
  const perRollout = Math.floor(world.options.faultyMs / (world.options.rollouts + 1));
  world.time.at(20_000, undefined, people.plan);
  every('plan', perRollout, people.plan);
  every('recount', 5 * MINUTE_MS, witness.recount);
  const crowd = world.random('crowd');
  every('operator', MINUTE_MS, () => {
    // Two people at the same moment, now and then.
    const number = crowd.between(1, 2);
    if (world.has('operator')) for (let person = 0; person < number; person += 1) people.meddle();
  });
  fault('server-crash', 20 * MINUTE_MS, () => server.crash());
  fault('agent-crash', 5 * MINUTE_MS, (random) => random.pick(devices).crash());
  fault('partition', 6 * MINUTE_MS, (random) =>
    network.partition(random.pick(devices).id, random.between(1, 20) * MINUTE_MS),
  );
  fault('device-clock', 10 * MINUTE_MS, (random) => {
    const device = random.pick(devices);
    device.clockOffMs = random.chance(0.3) ? 0 : random.between(-10, 10) * DAY_MS + random.between(-5_000, 5_000);
    world.tell(`${device.id} is ${device.clockOffMs} ms off`);
  });
  fault('server-clock', 15 * MINUTE_MS, (random) => {
    server.clockOffMs = random.between(-60_000, 60_000);
    world.tell(`the server is ${server.clockOffMs} ms off`);
  });
  fault('by-hand', 12 * MINUTE_MS, (random) => {
    const device = random.pick(devices);
    const version = random.pick([...world.releases.keys()]);
    if (device.memory()?.install.state !== 'idle' || !changeByHand(world, device, version)) return;
    world.tell(`${device.id} was changed by hand: it has ${version} now`);
    witness.changedByHand(device.id, world.releases.get(version)!.manifests.get(device.compatible)!);
    device.crash();
  });
};

/** One device of the simulation: its disk, its drive, its clock, and the lives that the agent leads on them. */

import type { Machine } from '#agent/deployment/machine.ts';
import type { Memory } from '#agent/domain/memory.ts';
import { Id } from '#shared/ids.ts';
import type { DesiredLeaf } from '#shared/messages.ts';
import type { Signer } from '#shared/trust/signers.ts';
import { live } from './agent-life.ts';
import type { Drive } from './drive.ts';
import type { Network } from './network.ts';
import { cutPower, type Disk } from './slots.ts';
import type { Process } from './time.ts';
import type { World } from './world.ts';

export type Device = {
  id: Id;
  compatible: Id;
  signer: Signer;
  /** The two slots. */
  disk: Disk;
  /** The agent's own files. */
  drive: Drive;
  timeZone: string;
  memory: () => Memory | undefined;
  /** How far its clock is off. */
  clockOffMs: number;
  start: () => void;
  /** Cuts the power; it comes back by itself. */
  crash: () => void;
};
/** The newest document that it verified, and when. */
export type Verified = { seq: number; instruction: DesiredLeaf['instruction']; at: number };
/** What the simulation's properties want to know of a device. */
export type Watch = {
  activating(device: Device, deployment: Id, verified: Verified | null): void;
  reported(device: Id, receipt: string): void;
};
export type DeviceDeps = { world: World; network: Network; director: Signer; watch: Watch };
export type DeviceSetup = { id: Id; compatible: Id; timeZone: string; disk: Disk };

export const openDevice = (deps: DeviceDeps, { id, compatible, timeZone, disk }: DeviceSetup): Device => {
  const { world } = deps;
  const { time } = world;
  const random = world.random(`agent ${id}`);
  /** Of the newest accepted document: the trust store's part, durable at once. */
  const accepted = { seq: 0 };
  let boots = 0;
  let process: Process = { name: id, dead: true };
  let machine: Machine | undefined;

  const device: Device = {
    id,
    compatible,
    signer: world.signerOf(id),
    disk,
    drive: world.drives.open(id, { forgets: world.options.bug === 'flush-of-files-skipped' }),
    timeZone,
    clockOffMs: 0,
    memory: () => machine?.memory(),
    start: () => {
      boots += 1;
      process = { name: id, dead: false };
      const mine = process;
      if (world.strikes('journal-lost', world.random(`journal ${id}`), 0.1) && device.drive.damage('journal', random))
        world.tell(`${id} finds its journal damaged`);
      time.within(mine, () => {
        live(deps, device, accepted, mine, Id.parse(`${id}-boot-${boots}`), (opened) => {
          if (!mine.dead) machine = opened;
        }).catch((error: unknown) => {
          if (!mine.dead) world.violate(`${id}: the agent threw ${String(error)}`);
        });
      });
    },
    crash: () => {
      if (process.dead) return;
      process.dead = true;
      machine = undefined;
      world.tell(`${id} loses its power`);
      deps.network.drop(id);
      cutPower(disk);
      device.drive.cut(random);
      time.at(random.between(3_000, 60_000), undefined, device.start);
    },
  };
  return device;
};

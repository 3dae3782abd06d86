/**
 * What is explored: a device whose disk is a volume, with one adapter and boot selector, before anything is installed
 * beside what the factory put there.
 */

import type { Supervisor } from '#agent/application/supervisor.ts';
import type { Slots } from '#agent/domain/slots.ts';
import { Id } from '#shared/ids.ts';
import type { Mounted, Ran } from './mount.ts';
import type { Release } from './releases.ts';

export const ROOT = '/explored';
export const DATA = `${ROOT}/data`;
export const COMPATIBLE = Id.parse('gw');
export const PAIR = `${DATA}/slots`;

/** What an agent's life adds to it. */
export type Device = {
  openSlots(supervisor: Supervisor): Promise<Slots>;
  /** The power comes back, after a reboot that the agent asked for by `command` or without one. */
  powerOn(command?: string[]): Promise<void>;
  /** Whether this file belongs to the boot selector. */
  isSelector(path: string): boolean;
  /**
   * What is wrong with what would boot now, whatever fails to come up; undefined when all is well. It may change what
   * is on the disk.
   */
  fault(release: Release, first: Release): Promise<string | undefined>;
  /** A program of this device. Undefined: it never ends. */
  run(command: string[], step: (path: string) => boolean): Promise<Ran> | undefined;
  runSync: (command: string[]) => string;
  /** Whether this command starts a version on trial. */
  startsTrial(command: string[]): boolean;
};

export type Kind = {
  name: string;
  /** What its releases are made of. */
  kind: 'directories' | 'image' | 'delegate';
  make(mounted: Mounted, first: Release): Promise<Device>;
};

/** The first version goes in as any other does, before a server is known. */
export const installFirst = async (slots: Slots, first: Release): Promise<void> => {
  const done = [
    await slots.prepare('a'),
    await slots.write('a', first.manifest, first.sha256, first.fetched),
    await slots.verify('a'),
    await slots.activate('a', { tries: 1, deployment: 'before' }),
    (await slots.boot()).booted === 'a' ? { ok: true } : { ok: false },
    await slots.commit(),
  ];
  if (done.some(({ ok }) => !ok)) throw new Error(`the first version cannot be installed: ${JSON.stringify(done)}`);
};

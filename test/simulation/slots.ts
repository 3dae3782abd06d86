/**
 * An A/B pair in memory behind the real port: durable selector and contents, a running application that dies with the
 * power, and applications that behave as their release does.
 */
import { readFile } from 'node:fs/promises';
import type { Supervisor } from '#agent/application/supervisor.ts';
import type { SlotContent, SlotName, Slots, SlotsView } from '#agent/domain/slots.ts';
import type { Id, Sha256 } from '#shared/ids.ts';
import { sha256Hex } from '#shared/trust/canonical.ts';
import { randomOf } from './random.ts';
import type { Process } from './time.ts';
import { never, type World } from './world.ts';

/** What is really on the disk. `whole` is false while it is written, and after a write that went wrong. */
type Content = { version: string; manifest: Sha256; whole: boolean; flushed: boolean; bootable: boolean };
/** Survives power cuts. */
export type Disk = {
  active: SlotName;
  trial: SlotsView['trial'];
  contents: Record<SlotName, Content | null>;
};

export const freshDisk = (version: string, manifest: Sha256): Disk => ({
  active: 'a',
  trial: null,
  contents: { a: { version, manifest, whole: true, flushed: true, bootable: true }, b: null },
});

export type SimulatedSlots = Slots & {
  /** By the application's own word. */
  isHealthy(): boolean;
  supervisor: Supervisor;
};

/** Whether the application of this release comes up and stays healthy on this device. */
const works = (world: World, device: Id, version: string): 'works' | 'crashes' | 'unhealthy' => {
  const behaviour = world.releases.get(version)?.behaviour ?? { kind: 'good' };
  if (behaviour.kind === 'crashes' || behaviour.kind === 'unhealthy') return behaviour.kind;
  if (behaviour.kind === 'good' || behaviour.kind === 'fades') return 'works';
  return randomOf(world.options.seed, `flaky ${version} ${device}`).next() < behaviour.share ? 'unhealthy' : 'works';
};

/** How long an application of this release stays well on this device. */
const wellForMs = (world: World, device: Id, version: string): number => {
  const behaviour = world.releases.get(version)?.behaviour;
  if (behaviour?.kind !== 'fades') return Number.POSITIVE_INFINITY;
  const fades = randomOf(world.options.seed, `fades ${version} ${device}`).next() < behaviour.share;
  return fades ? behaviour.afterMs : Number.POSITIVE_INFINITY;
};

/** The properties that must hold of a disk at every moment. */
const checkDisk = (world: World, device: Id, disk: Disk): void => {
  const active = disk.contents[disk.active];
  if (active === null || !active.bootable) world.violate(`${device}: the active slot ${disk.active} does not boot`);
  for (const slot of ['a', 'b'] as const) {
    const content = disk.contents[slot];
    if (content?.bootable === true && !content.whole)
      world.violate(`${device}: slot ${slot} boots although its content is not what was verified`);
  }
  if (disk.trial !== null && disk.contents[disk.trial.slot]?.bootable !== true)
    world.violate(`${device}: slot ${disk.trial.slot} is on trial and was never verified`);
  const state = active === null ? 'works' : works(world, device, active.version);
  if (state !== 'works') world.violate(`${device}: ${active?.version} was committed although it ${state}`);
};

/** Power is cut: what was not flushed is gone. */
export const cutPower = (disk: Disk): void => {
  for (const slot of ['a', 'b'] as const) {
    const content = disk.contents[slot];
    if (content !== null && !content.flushed) content.whole = false;
  }
};

export const openSlots = (
  world: World,
  device: Id,
  disk: Disk,
  process: Process,
  maybeCrash: () => boolean,
): SimulatedSlots => {
  const { bug } = world.options;
  const random = world.random(`slots ${device}`);
  let running: { slot: SlotName; trial: boolean; version: string; since: number } | null = null;
  const listeners = new Set<Parameters<Supervisor['listen']>[0]>();
  const exit = (): void => {
    running = null;
    for (const listener of listeners) listener({ slot: 'a', code: 1, signal: null, ranMs: 0, restartInMs: null });
  };
  const startIt = (slot: SlotName, trial: boolean, version: string): void => {
    const mine = { slot, trial, version, since: world.time.now() };
    running = mine;
    const state = works(world, device, version);
    if (state === 'crashes') running = null;
    if (state === 'unhealthy')
      world.time.at(random.between(500, 4_000), process, () => {
        if (running === mine) exit();
      });
  };

  /** Each operation takes time, and the power may fail before it or after it. */
  const operate = async <T>(act: () => T): Promise<T> => {
    await world.time.sleep(random.between(1, 40));
    if (process.dead || maybeCrash()) return never();
    const result = act();
    checkDisk(world, device, disk);
    if (maybeCrash()) return never();
    return result;
  };
  const contentOf = (slot: SlotName): SlotContent => {
    const content = disk.contents[slot];
    if (content === null || !content.bootable) return { state: 'unbootable' };
    const { version, manifest } = content;
    return {
      state: 'bootable',
      running: { product: 'gateway' as Id, version, manifest, slot },
      securityCounter: 0,
    };
  };
  const bad = (code: 'WRITE_VERIFY' | 'PRECONDITION' | 'NO_SPACE' | 'TARGET_HASH', message: string) => ({
    ok: false as const,
    code,
    message,
  });

  const supervisor: Supervisor = {
    start: async () => ({ ok: true }),
    running: () => (running === null ? null : { slot: running.slot, pid: 2, ranMs: world.time.now() - running.since }),
    keepRunning: () => {},
    listen: (listener) => {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    lastOutput: async () => '',
    stop: async () => {},
  };

  return {
    isHealthy: () => running !== null && world.time.now() - running.since < wellForMs(world, device, running.version),
    supervisor,
    workFolder: () => '/',
    process: supervisor,
    inspect: () =>
      operate(() => ({
        ok: true as const,
        view: {
          active: disk.active,
          trial: disk.trial === null ? null : { ...disk.trial },
          slots: { a: contentOf('a'), b: contentOf('b') },
        },
      })),
    prepare: (slot) =>
      operate(() => {
        if (slot === disk.active) return bad('PRECONDITION', 'the active slot');
        if (disk.trial?.slot === slot) disk.trial = null;
        disk.contents[slot] = null;
        return { ok: true };
      }),
    write: async (slot, { version }, sha256, artifacts) => {
      for (const { name, file } of artifacts)
        if (!file.endsWith(sha256Hex(await readFile(file)))) return bad('TARGET_HASH', name);
      const begun = await operate(() => {
        if (slot === disk.active) return bad('PRECONDITION', 'the active slot');
        if (world.strikes('slot-full', random, 0.15)) return bad('NO_SPACE', 'the slot is too small');
        disk.contents[slot] = { version, manifest: sha256 as Sha256, whole: false, flushed: false, bootable: false };
        return { ok: true as const };
      });
      if (!begun.ok) return begun;
      await world.time.sleep(random.between(1_000, 10_000));
      return operate(() => {
        const content = disk.contents[slot];
        if (content === null) return bad('PRECONDITION', 'it was emptied');
        content.whole = !world.strikes('bad-disk', world.random('bad-disk'), 0.1);
        content.flushed = bug !== 'flush-skipped';
        return { ok: true };
      });
    },
    verify: (slot) =>
      operate(() => {
        const content = disk.contents[slot];
        if (content === null) return bad('WRITE_VERIFY', 'there is nothing');
        if (!content.whole && bug !== 'read-back-skipped') {
          content.bootable = false;
          return bad('WRITE_VERIFY', 'what is read is not what was written');
        }
        content.bootable = true;
        return { ok: true };
      }),
    activate: (slot, { tries, deployment }) =>
      operate(() => {
        if (disk.contents[slot]?.bootable !== true) return bad('PRECONDITION', 'it does not boot');
        disk.trial = { slot, triesLeft: tries, deployment };
        return { ok: true };
      }),
    boot: async () => {
      const booted = await operate(() => {
        const isTrial = disk.trial !== null && disk.trial.triesLeft > 0;
        if (disk.trial !== null && isTrial) disk.trial = { ...disk.trial, triesLeft: disk.trial.triesLeft - 1 };
        const slot = disk.trial !== null && isTrial ? disk.trial.slot : disk.active;
        return { slot, trial: isTrial };
      });
      await world.time.sleep(random.between(2_000, 15_000));
      return operate(() => {
        const version = disk.contents[booted.slot]?.version;
        if (version === undefined) return { booted: null, why: 'its slot was emptied' };
        startIt(booted.slot, booted.trial, version);
        return { booted: booted.slot, trial: booted.trial };
      });
    },
    running: () => operate(() => (running === null ? null : { slot: running.slot, trial: running.trial })),
    commit: () =>
      operate(() => {
        if (disk.trial !== null) disk.active = disk.trial.slot;
        disk.trial = null;
        if (running !== null) running = { ...running, trial: false };
        return { ok: true };
      }),
    revert: () =>
      operate(() => {
        disk.trial = null;
        return { ok: true };
      }),
    stop: async () => {
      running = null;
    },
  };
};

/**
 * Someone installs another release into the active slot, past the agent. False where the device cannot bear that now.
 */
export const changeByHand = (
  world: World,
  device: { id: Id; compatible: Id; disk: Disk },
  version: string,
): boolean => {
  const { id, compatible, disk } = device;
  const manifest = world.releases.get(version)?.manifests.get(compatible);
  if (manifest === undefined || disk.trial !== null || works(world, id, version) !== 'works') return false;
  disk.contents[disk.active] = { version, manifest, whole: true, flushed: true, bootable: true };
  return true;
};

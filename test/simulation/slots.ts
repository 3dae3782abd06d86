/** An A/B pair in memory behind the real port: durable selector and contents, a running application that dies with the power, and applications that behave as their release does. */
import { type SlotContent, type SlotName, type Slots, type SlotsView } from '#agent/slots/slots.ts';
import type { Id, Sha256 } from '#shared/ids.ts';
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
  /** What the trial shows after it has run for a while. */
  isHealthy(): boolean;
  /** Begins writing what the manifest says. */
  target(version: string, manifest: Sha256): void;
};

/** Whether the application of this release comes up and stays healthy on this device. */
const works = (world: World, device: Id, version: string): 'works' | 'crashes' | 'unhealthy' => {
  const behaviour = world.releases.get(version)?.behaviour ?? { kind: 'good' };
  if (behaviour.kind === 'crashes' || behaviour.kind === 'unhealthy') return behaviour.kind;
  if (behaviour.kind === 'good') return 'works';
  return randomOf(world.options.seed, `flaky ${version} ${device}`).next() < behaviour.share ? 'unhealthy' : 'works';
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
  let running: { slot: SlotName; trial: boolean; works: ReturnType<typeof works> } | null = null;
  let wanted: { version: string; manifest: Sha256 } | undefined;

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
  const bad = (code: 'WRITE_VERIFY' | 'PRECONDITION', message: string) => ({ ok: false as const, code, message });

  return {
    isHealthy: () => running?.works === 'works',
    target: (version, manifest) => {
      wanted = { version, manifest };
    },
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
    write: async (slot) => {
      const target = wanted;
      if (target === undefined) return bad('PRECONDITION', 'nothing to write');
      const begun = await operate(() => {
        if (slot === disk.active) return bad('PRECONDITION', 'the active slot');
        disk.contents[slot] = { ...target, whole: false, flushed: false, bootable: false };
        return { ok: true as const };
      });
      if (!begun.ok) return begun;
      await world.time.sleep(random.between(1_000, 10_000));
      return operate(() => {
        const content = disk.contents[slot];
        if (content === null) return bad('PRECONDITION', 'it was emptied');
        content.whole = !(world.has('bad-disk') && world.random('bad-disk').chance(0.1));
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
        running = { ...booted, works: works(world, device, version) };
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

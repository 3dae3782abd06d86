/** What every adapter must do, whatever its slots are made of and no matter what decides what boots. */

import { describe, expect, test } from 'vitest';
import { standbyOf } from '#agent/domain/restart-evidence.ts';
import { other, type SlotName, type Slots } from '#agent/domain/slots.ts';
import { swept } from '#test/sweep.ts';
import { flipByte, install, REFUSED, type Release, viewOf } from './slot-pair.ts';
import { ADAPTERS, type SlotsRig } from './slots-rigs.ts';

const OK = { ok: true };
const TRIAL = { tries: 2, deployment: 'd2' };
const write = (slots: Slots, slot: SlotName, { manifest, digest, fetched }: Release) =>
  slots.write(slot, manifest, digest, fetched);

/** As the agent does it: until something runs. A device that reboots has another agent then. */
const bootUp = async (
  rig: SlotsRig,
  before: Slots,
  cut?: (name: string) => void,
): Promise<{ slots: Slots; booted: SlotName; trial: boolean }> => {
  let slots = before;
  for (let reboots = 0; reboots < 4; reboots += 1) {
    const up = await slots.boot();
    if (up.booted !== null) return { slots, ...up };
    await rig.powerOn(slots);
    slots = await rig.open(cut);
  }
  throw new Error('it never comes up');
};

/** The whole way of a version that is well. */
const deploy = async (rig: SlotsRig, release: Release, deployment: string) => {
  const slots = await rig.open();
  const slot = standbyOf(await viewOf(slots));
  await install(slots, slot, release);
  expect(await slots.activate(slot, { tries: 2, deployment })).toEqual(OK);
  const up = await bootUp(rig, slots);
  expect(up).toMatchObject({ booted: slot, trial: true });
  expect(await up.slots.commit()).toEqual(OK);
  return { slots: up.slots, active: slot };
};

/** 1.0.0 is committed; the other slot stands by. */
const settled = async (make: () => Promise<SlotsRig>) => {
  const rig = await make();
  const first = await rig.release('1.0.0');
  const { slots, active } = await deploy(rig, first, 'd1');
  return { rig, first, slots, active, standby: other(active) };
};

class Cut extends Error {}
/**
 * One whose steps are files of ours, one whose steps are a boot loader's; test/crashes does the same in memory for all.
 */
const ON_REAL_FILES = ['directories', 'image, GRUB'];

/** One life of an agent, which goes on from wherever it finds itself. */
const goOn = async (rig: SlotsRig, slot: SlotName, release: Release, cut: (name: string) => void): Promise<boolean> => {
  const slots = await rig.open(cut);
  const { active, trial, slots: contents } = await viewOf(slots);
  if (active === slot) return true;
  if (trial?.slot !== slot) {
    if (contents[slot].state !== 'bootable') {
      expect(await slots.prepare(slot, release.manifest)).toEqual(OK);
      expect(await write(slots, slot, release)).toEqual(OK);
      expect(await slots.verify(slot)).toEqual(OK);
    }
    expect(await slots.activate(slot, { tries: 3, deployment: 'd2' })).toEqual(OK);
  }
  const up = await bootUp(rig, slots, cut);
  expect(await (up.trial ? up.slots.commit() : up.slots.revert())).toEqual(OK);
  return up.trial;
};

describe.each(swept(ADAPTERS, 3))('$name', ({ name, make, missing }) => {
  describe.skipIf(missing !== undefined)(`which needs ${missing ?? 'nothing else'}`, { timeout: 600_000 }, () => {
    test('a release goes into the standby slot, runs on trial, and is committed', async () => {
      const { rig, slots, active, standby } = await settled(make);
      const release = await rig.release('2.0.0');
      await install(slots, standby, release);
      const running = { product: release.manifest.product, version: '2.0.0', manifest: release.digest, slot: standby };
      expect((await viewOf(slots)).slots[standby]).toEqual({ state: 'bootable', running, securityCounter: 3 });
      expect(await rig.holds(standby, release)).toBe(true);
      expect(await slots.activate(standby, TRIAL)).toEqual(OK);
      expect((await viewOf(slots)).trial).toEqual({ slot: standby, triesLeft: 2, deployment: 'd2' });
      expect(await slots.running()).toEqual({ slot: active, trial: false });
      const up = await bootUp(rig, slots);
      expect(up).toMatchObject({ booted: standby, trial: true });
      expect((await viewOf(up.slots)).trial).toEqual({ slot: standby, triesLeft: 1, deployment: 'd2' });
      expect(await up.slots.running()).toEqual({ slot: standby, trial: true });
      expect(await up.slots.commit()).toEqual(OK);
      expect(await viewOf(up.slots)).toMatchObject({ active: standby, trial: null });
      expect(await up.slots.running()).toEqual({ slot: standby, trial: false });
      expect(await up.slots.boot()).toEqual({ booted: standby, trial: false });
    });

    test('a trial that is reverted boots what ran before, and until then neither slot is written', async () => {
      const { rig, slots, active, standby } = await settled(make);
      await install(slots, standby, await rig.release('2.0.0'));
      await slots.activate(standby, TRIAL);
      const onTrial = (await bootUp(rig, slots)).slots;
      expect(await onTrial.revert()).toEqual(OK);
      expect(await onTrial.revert()).toEqual(OK);
      expect(await onTrial.prepare(standby)).toMatchObject({ ...REFUSED, message: `slot ${standby} is running` });
      expect(await onTrial.prepare(active)).toMatchObject({ ...REFUSED, message: `slot ${active} is the active one` });
      const back = await bootUp(rig, onTrial);
      expect(back).toMatchObject({ booted: active, trial: false });
      expect(await viewOf(back.slots)).toMatchObject({ active, trial: null });
      expect(await back.slots.commit()).toEqual(OK);
      expect(await viewOf(back.slots)).toMatchObject({ active, trial: null });
    });

    test('22: new version crashes, or hangs, trial: reverts, by boot counter or watchdog (its tries are used up, and no one has to decide so)', async () => {
      const { rig, slots, active, standby } = await settled(make);
      await install(slots, standby, await rig.release('2.0.0'));
      await slots.activate(standby, TRIAL);
      await rig.failTrial(slots, TRIAL.tries);
      const back = await bootUp(rig, await rig.open());
      expect(back).toMatchObject({ booted: active, trial: false });
      expect((await viewOf(back.slots)).trial).toEqual({ slot: standby, triesLeft: 0, deployment: 'd2' });
      expect(await back.slots.commit()).toMatchObject(REFUSED);
      expect(await back.slots.revert()).toEqual(OK);
      expect(await viewOf(back.slots)).toMatchObject({ active, trial: null });
    });

    test('every step may be asked for twice', async () => {
      const { rig, slots, standby } = await settled(make);
      const release = await rig.release('2.0.0');
      const twice = async (step: () => Promise<unknown>): Promise<void> => {
        expect(await step()).toEqual(OK);
        expect(await step()).toEqual(OK);
      };
      await twice(() => slots.prepare(standby, release.manifest));
      await twice(() => write(slots, standby, release));
      await twice(() => slots.verify(standby));
      await twice(() => slots.activate(standby, TRIAL));
      const up = await bootUp(rig, slots);
      // The tries already used stay used.
      await twice(() => up.slots.activate(standby, TRIAL));
      expect((await viewOf(up.slots)).trial?.triesLeft).toBe(1);
      await twice(() => up.slots.commit());
      await twice(() => up.slots.revert());
      expect(await viewOf(up.slots)).toMatchObject({ active: standby, trial: null });
    });

    test('the active slot is never prepared, written or activated', async () => {
      const { rig, slots, first, active } = await settled(make);
      const second = await rig.release('2.0.0');
      expect(await slots.prepare(active, second.manifest)).toMatchObject(REFUSED);
      expect(await write(slots, active, second)).toMatchObject(REFUSED);
      expect(await slots.activate(active, TRIAL)).toMatchObject(REFUSED);
      expect(await rig.holds(active, first)).toBe(true);
    });

    test('only a slot that was read back can be activated, and for one deployment at a time', async () => {
      const { rig, slots, standby } = await settled(make);
      const release = await rig.release('2.0.0');
      await slots.prepare(standby);
      expect(await slots.activate(standby, TRIAL)).toMatchObject(REFUSED);
      expect(await slots.verify(standby)).toMatchObject({ ok: false, code: 'WRITE_VERIFY' });
      await write(slots, standby, release);
      expect(await slots.activate(standby, TRIAL)).toMatchObject(REFUSED);
      await slots.verify(standby);
      expect(await slots.activate(standby, TRIAL)).toEqual(OK);
      expect(await slots.activate(standby, { tries: 1, deployment: 'another' })).toMatchObject(REFUSED);
    });

    test('a slot that holds another release must be prepared before it is written', async () => {
      const { rig, slots, standby } = await settled(make);
      await install(slots, standby, await rig.release('2.0.0'));
      expect(await write(slots, standby, await rig.release('3.0.0'))).toMatchObject(REFUSED);
    });

    test('preparing forgets an abandoned trial of that slot first', async () => {
      const { rig, slots, active, standby } = await settled(make);
      await install(slots, standby, await rig.release('2.0.0'));
      await slots.activate(standby, TRIAL);
      expect(await slots.prepare(standby)).toEqual(OK);
      expect(await viewOf(await rig.open())).toMatchObject({
        active,
        trial: null,
        slots: { [standby]: { state: 'unbootable' } },
      });
      expect(await rig.powerOn(slots)).toBe(active);
    });

    test('an artifact that changed on the disk after it was fetched is refused', async () => {
      const { rig, slots, standby } = await settled(make);
      const release = await rig.release('2.0.0');
      await slots.prepare(standby, release.manifest);
      await flipByte(release.fetched[0]!.file, 4);
      expect(await write(slots, standby, release)).toMatchObject({ ok: false, code: 'TARGET_HASH' });
      expect(await slots.verify(standby)).toMatchObject({ ok: false, code: 'WRITE_VERIFY' });
    });

    test('15: a bit flipped in the slot, after the write: read-back fails, no activation', async () => {
      const { rig, slots, active, standby } = await settled(make);
      await slots.prepare(standby);
      await write(slots, standby, await rig.release('2.0.0'));
      await rig.damage(standby);
      expect(await slots.verify(standby)).toMatchObject({ ok: false, code: 'WRITE_VERIFY' });
      expect(await slots.activate(standby, TRIAL)).toMatchObject({ ok: false });
      expect(await viewOf(slots)).toMatchObject({ active, trial: null, slots: { [standby]: { state: 'unbootable' } } });
      expect(await rig.powerOn(slots)).toBe(active);
    });

    test('15: a bit flipped in the slot, after the write: read-back fails, no activation (nor is it bootable any more, if it was)', async () => {
      const { rig, slots, standby } = await settled(make);
      await install(slots, standby, await rig.release('2.0.0'));
      await rig.damage(standby);
      expect(await slots.verify(standby)).toMatchObject({ ok: false, code: 'WRITE_VERIFY' });
      expect((await viewOf(slots)).slots[standby]).toEqual({ state: 'unbootable' });
      expect(await slots.activate(standby, TRIAL)).toMatchObject({ ok: false });
    });

    test('19: image bigger than the slot, start: rejected before any write', async () => {
      const { rig, slots, standby } = await settled(make);
      const large = await rig.large();
      await slots.prepare(standby);
      const before = await rig.contents();
      const prepared = await slots.prepare(standby, large.manifest);
      // Where only the writer knows how much fits.
      const refused = prepared.ok ? await write(slots, standby, large) : prepared;
      expect(refused).toMatchObject({ ok: false, code: 'NO_SPACE' });
      expect(await rig.contents()).toEqual(before);
    });

    test('11: both environment copies, or the grubenv, invalid, start: refuses to install, raises an alarm, writes nothing', async () => {
      const { rig, slots: healthy, standby } = await settled(make);
      const release = await rig.release('2.0.0');
      await healthy.prepare(standby);
      await rig.damageSelector();
      const before = await rig.contents();
      const slots = await rig.open();
      // The agent's alarm is what this says.
      expect(await slots.inspect()).toMatchObject({ ...REFUSED, message: expect.stringMatching(/\w/) });
      const refusals = [
        await slots.prepare(standby, release.manifest),
        await write(slots, standby, release),
        await slots.verify(standby),
        await slots.activate(standby, TRIAL),
        await slots.commit(),
        await slots.revert(),
      ];
      for (const refusal of refusals) expect(refusal).toMatchObject(REFUSED);
      expect(await rig.contents()).toEqual(before);
    });

    test('10: torn write of the newest environment copy, activation: the previous copy wins', async (context) => {
      const { rig, slots, active, standby } = await settled(make);
      context.skip(rig.tearSelector === undefined, 'there is only one copy, which is replaced in one step');
      await install(slots, standby, await rig.release('2.0.0'));
      await slots.activate(standby, TRIAL);
      await rig.tearSelector!();
      const again = await rig.open();
      expect(await viewOf(again)).toMatchObject({ active, trial: null });
      expect(await again.activate(standby, TRIAL)).toEqual(OK);
      expect((await viewOf(await rig.open())).trial).toEqual({ slot: standby, triesLeft: 2, deployment: 'd2' });
    });

    if (!ON_REAL_FILES.includes(name)) return;
    test('9: power cut of a virtual machine, random, many times: always boots a verified slot (here: after every durable step; and the release arrives)', async () => {
      const steps = new Set<string>();
      const arrive = async (cut: (name: string) => void): Promise<void> => {
        const { rig, first, standby } = await settled(make);
        const release = await rig.release('2.0.0');
        for (let lives = 0; lives < 12; lives += 1) {
          const arrived = await goOn(rig, standby, release, cut).catch((error: unknown) => {
            if (error instanceof Cut) return false;
            throw error;
          });
          if (arrived) return;
          const slot = await rig.powerOn(await rig.open());
          expect((await rig.holds(slot, first)) || (await rig.holds(slot, release))).toBe(true);
        }
        throw new Error('it never arrives');
      };
      await arrive((name) => void steps.add(name));
      expect(steps.size).toBeGreaterThanOrEqual(8);
      for (const step of steps) {
        let cuts = 0;
        await arrive((name) => {
          if (name !== step || cuts > 0) return;
          cuts += 1;
          throw new Cut();
        });
        expect([step, cuts]).toEqual([step, 1]);
      }
    });
  });
});

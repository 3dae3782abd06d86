/** What every boot selector must do, whatever it is made of. Each test plays the boot loader too. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { SlotName } from '#agent/domain/slots.ts';
import type { ImageSelector } from '#agent/slots/selectors/selector.ts';
import type { Rig } from './rigs.ts';

const read = async (selector: ImageSelector) => {
  const found = await selector.read();
  if (found.state === 'damaged') throw new Error(found.why);
  return found.selection;
};

/** As the agent restarts the device; the next start finds it so. */
export const reboot = async (rig: Rig): Promise<SlotName> => rig.powerOn((await rig.open().arm()) !== null);
const reboots = async (rig: Rig, times: number): Promise<string> => {
  let booted = '';
  for (let turn = 0; turn < times; turn += 1) booted += await reboot(rig);
  return booted;
};

/** Every file with its content. */
export const snapshot = async (dir: string): Promise<Record<string, string>> => {
  const files = (await readdir(dir, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
  const contents = files.map(async ({ parentPath, name }) => {
    const file = join(parentPath, name);
    return [file, (await readFile(file)).toString('latin1')] as const;
  });
  return Object.fromEntries((await Promise.all(contents)).toSorted(([one], [two]) => (one < two ? -1 : 1)));
};

/** With a tool missing, `selector` says which. */
export const selectorContract = (makeRig: () => Promise<Rig>, missing?: string): void => {
  describe.skipIf(missing !== undefined)(`which needs ${missing ?? 'nothing else'}`, () => {
    test('the committed slot boots as often as it likes', async () => {
      const rig = await makeRig();
      expect(await rig.open().check()).not.toContainEqual(expect.objectContaining({ grave: true }));
      expect(await read(rig.open())).toEqual({ active: 'a', trial: null });
      for (let boot = 0; boot < 5; boot += 1) {
        expect(await reboot(rig)).toBe('a');
        await rig.open().keep();
      }
    });

    test('a trial boots as often as it has tries, and then the committed slot, without anyone deciding so', async () => {
      const rig = await makeRig();
      await rig.open().disable('b');
      await rig.open().setTrial('b', 2);
      expect(await read(rig.open())).toEqual({ active: 'a', trial: { slot: 'b', triesLeft: 2 } });
      expect(await reboot(rig)).toBe('b');
      expect(await read(rig.open())).toEqual({ active: 'a', trial: { slot: 'b', triesLeft: 1 } });
      expect(await reboots(rig, 4)).toBe('baaa');
      expect(await read(rig.open())).toEqual({ active: 'a', trial: { slot: 'b', triesLeft: 0 } });
      await rig.open().revert();
      expect(await read(rig.open())).toEqual({ active: 'a', trial: null });
    });

    test('a committed trial boots from then on, and the slot before it is the next standby', async () => {
      const rig = await makeRig();
      await rig.open().disable('b');
      await rig.open().setTrial('b', 1);
      expect(await reboot(rig)).toBe('b');
      await rig.open().commit('b');
      expect(await read(rig.open())).toEqual({ active: 'b', trial: null });
      for (let boot = 0; boot < 5; boot += 1) {
        expect(await reboot(rig)).toBe('b');
        await rig.open().keep();
      }
      await rig.open().disable('a');
      await rig.open().setTrial('a', 3);
      expect(await reboot(rig)).toBe('a');
      await rig.open().commit('a');
      expect(await reboots(rig, 2)).toBe('aa');
    });

    test('a reverted trial does not boot again', async () => {
      const rig = await makeRig();
      await rig.open().disable('b');
      await rig.open().setTrial('b', 9);
      expect(await reboot(rig)).toBe('b');
      await rig.open().revert();
      expect(await read(rig.open())).toEqual({ active: 'a', trial: null });
      expect(await reboots(rig, 5)).toBe('aaaaa');
    });

    test('what is disabled never boots, however often the other fails to come up', async () => {
      const rig = await makeRig();
      await rig.open().setTrial('b', 3);
      await rig.open().disable('b');
      expect(await read(rig.open())).toEqual({ active: 'a', trial: null });
      expect(await reboots(rig, 12)).toBe('a'.repeat(12));
    });

    test('every change may be asked for twice', async () => {
      const rig = await makeRig();
      const twice = async (act: (selector: ImageSelector) => Promise<void>): Promise<void> => {
        await act(rig.open());
        const once = await read(rig.open());
        await act(rig.open());
        expect(await read(rig.open())).toEqual(once);
      };
      await twice((selector) => selector.disable('b'));
      await twice((selector) => selector.setTrial('b', 3));
      await reboot(rig);
      await twice((selector) => selector.commit('b'));
      await twice((selector) => selector.disable('a'));
      await twice((selector) => selector.setTrial('a', 3));
      await twice((selector) => selector.revert());
      expect(await read(rig.open())).toEqual({ active: 'b', trial: null });
      expect(await reboot(rig)).toBe('b');
    });

    test('more tries than a boot loader can count are as many as it can', async () => {
      const rig = await makeRig();
      await rig.open().setTrial('b', 100);
      expect((await read(rig.open())).trial).toEqual({ slot: 'b', triesLeft: 9 });
      expect(await reboots(rig, 11)).toBe('bbbbbbbbbaa');
    });

    test('11: both environment copies, or the grubenv, invalid, start: refuses to install, raises an alarm, writes nothing', async () => {
      const rig = await makeRig();
      await rig.open().disable('b');
      await rig.damage();
      const before = await snapshot(rig.dir);
      const selector = rig.open();
      expect(await selector.read()).toMatchObject({ state: 'damaged', why: expect.stringMatching(/\w/) });
      expect(await selector.check()).toContainEqual(expect.objectContaining({ grave: true }));
      for (const act of [
        () => selector.disable('b'),
        () => selector.setTrial('b', 3),
        () => selector.commit('b'),
        () => selector.revert(),
      ])
        await expect(act()).rejects.toThrow();
      // No one waits for this one.
      await selector.keep().catch(() => undefined);
      expect(await snapshot(rig.dir)).toEqual(before);
    });
  });
};

/**
 * Real agents on devices that boot images, with every boot selector: its files, its tools where they are, and a boot
 * loader that reads them.
 */

import { readFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { ALL_SWEEPS, swept } from '#test/sweep.ts';
import { startTestServer } from './harness.ts';
import { bootImageDevice, publishImage } from './slots/image-device.ts';
import {
  GRUB_EDITENV,
  grubRig,
  hasTool,
  OWN_ACCESS,
  type Rig,
  raspberryPiRig,
  systemdBootRig,
  ubootRig,
} from './slots/selectors/rigs.ts';

const uboot = hasTool('fw_setenv') && hasTool('fw_printenv');
const GRUB = () => grubRig(hasTool('grub-editenv') ? GRUB_EDITENV : OWN_ACCESS);
const KINDS: { name: string; rig: () => Promise<Rig>; there: boolean }[] = [
  { name: 'GRUB', rig: GRUB, there: true },
  { name: "U-Boot, RAUC's variables (fw_setenv must be installed)", rig: () => ubootRig('rauc'), there: uboot },
  { name: "U-Boot, Mender's variables (fw_setenv must be installed)", rig: () => ubootRig('mender'), there: uboot },
  { name: 'Raspberry Pi', rig: raspberryPiRig, there: true },
  { name: 'systemd-boot', rig: systemdBootRig, there: true },
];

/** Eight starts of an agent, one after the other. */
const LONG = { timeout: 600_000 };

describe.each(swept(KINDS, 2))('$name', ({ rig, there }) => {
  test.skipIf(!there)(
    'a good image is committed, and one that never comes up reverts, both by receipt',
    LONG,
    async () => {
      const server = await startTestServer();
      const device = await bootImageDevice(server, await rig());

      const good = await publishImage(server, '1.1.0', 'good');
      expect(await device.deploy(good)).toMatchObject({
        outcome: 'committed',
        error: undefined,
        running: { version: '1.1.0', slot: 'b', manifest: good.instruction.sha256 },
      });
      expect(device.booted).toEqual(['a', 'b']);

      expect(await device.deploy(await publishImage(server, '1.2.0', 'broken'))).toMatchObject({
        outcome: 'reverted',
        error: 'TRIAL_CRASHED',
        running: { version: '1.1.0', slot: 'b' },
      });
      // As often as it has tries, and not once more; on a Raspberry Pi each of them from the old slot.
      const tries = device.booted.slice(2);
      expect(tries.filter((slot) => slot === 'a')).toHaveLength(2);
      expect(tries.at(-1)).toBe('b');
    },
  );
});

test.runIf(ALL_SWEEPS)(
  'an image that is not well reboots into what ran before, and the next one is installed over it',
  LONG,
  async () => {
    const server = await startTestServer();
    const device = await bootImageDevice(server, await GRUB());
    expect(await device.deploy(await publishImage(server, '1.1.0', 'unhealthy'))).toMatchObject({
      outcome: 'reverted',
      error: 'SELFTEST_FAILED',
      // Nothing is known of what the factory has put there.
      running: null,
    });
    expect(device.booted).toEqual(['a', 'b', 'a']);
    expect(await device.deploy(await publishImage(server, '1.2.0', 'good'))).toMatchObject({
      outcome: 'committed',
      running: { version: '1.2.0', slot: 'b' },
    });
  },
);

test('11: both environment copies, or the grubenv, invalid, start: refuses to install, raises an alarm, writes nothing', async () => {
  const server = await startTestServer();
  const rig = await grubRig(OWN_ACCESS);
  await rig.damage();
  const device = await bootImageDevice(server, rig);
  const release = await publishImage(server, '1.1.0', 'good');
  const before = await readFile(device.files.b);
  expect(await device.deploy(release)).toMatchObject({ outcome: 'failed', error: 'PRECONDITION' });
  expect(device.lines()).toContainEqual(expect.objectContaining({ event: 'boot-selector-unfit' }));
  expect(server.state.reports.at(-1)?.attributes).toMatchObject({ unhealthy: expect.stringContaining('grubenv') });
  expect((await readFile(device.files.b)).equals(before)).toBe(true);
  expect(server.state.requests).toEqual([]);
  expect(device.booted).toEqual(['a']);
});

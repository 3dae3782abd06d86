import { describe } from 'vitest';
import { selectorContract } from './contract.ts';
import { GRUB_EDITENV, grubRig, hasTool, OWN_ACCESS, raspberryPiRig, systemdBootRig, ubootRig } from './rigs.ts';

const uboot = ['fw_printenv', 'fw_setenv'].find((tool) => !hasTool(tool));
const grub = hasTool('grub-editenv') ? undefined : 'grub-editenv';

describe('U-Boot, as RAUC has it', () => {
  selectorContract(() => ubootRig('rauc'), uboot);
});
describe('U-Boot, as Mender has it', () => {
  selectorContract(() => ubootRig('mender'), uboot);
});
describe('GRUB', () => {
  selectorContract(() => grubRig(OWN_ACCESS));
});
describe('GRUB, read and written by grub-editenv', () => {
  selectorContract(() => grubRig(GRUB_EDITENV), grub);
});
describe('Raspberry Pi', () => {
  selectorContract(raspberryPiRig);
});
describe('systemd-boot', () => {
  selectorContract(systemdBootRig);
});

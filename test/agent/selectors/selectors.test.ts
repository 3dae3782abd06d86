import { selectorContract } from './contract.ts';
import { GRUB_EDITENV, grubRig, hasTool, OWN_ACCESS, raspberryPiRig, systemdBootRig, ubootRig } from './rigs.ts';

const uboot = ['fw_printenv', 'fw_setenv'].find((tool) => !hasTool(tool));
const grub = hasTool('grub-editenv') ? undefined : 'grub-editenv';

selectorContract('U-Boot, as RAUC has it', () => ubootRig('rauc'), uboot);
selectorContract('U-Boot, as Mender has it', () => ubootRig('mender'), uboot);
selectorContract('GRUB', () => grubRig(OWN_ACCESS));
selectorContract('GRUB, read and written by grub-editenv', () => grubRig(GRUB_EDITENV), grub);
selectorContract('Raspberry Pi', raspberryPiRig);
selectorContract('systemd-boot', systemdBootRig);

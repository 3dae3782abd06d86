/** Opens the boot selector that is configured. */

import type { SelectorConfig } from '#agent/config/boot-config.ts';
import { unreachable } from '#shared/ids.ts';
import { openGrubSelector } from './grub.ts';
import { openRaspberryPiSelector } from './raspberry-pi.ts';
import type { ImageSelector } from './selector.ts';
import { openSystemdBootSelector } from './systemd-boot.ts';
import { openUbootSelector } from './uboot.ts';

/** `dir` is for what a selector notes of its own. */
export const openSelector = (config: SelectorConfig, dir: string): ImageSelector => {
  switch (config.kind) {
    case 'uboot':
      return openUbootSelector(config);
    case 'grub':
      return openGrubSelector(config);
    case 'raspberry-pi':
      return openRaspberryPiSelector({ ...config, dir });
    case 'systemd-boot':
      return openSystemdBootSelector(config);
    default:
      return unreachable(config);
  }
};

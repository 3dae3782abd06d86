/** Opens slots that an installer writes. */

import type { DelegateConfig } from '#agent/config/delegate-config.ts';
import type { Slots } from '#agent/domain/slots.ts';
import { unreachable } from '#shared/ids.ts';
import { openCommandSlots } from './command.ts';
import type { DelegateOptions } from './delegate-options.ts';
import { openRaucSlots } from './rauc.ts';
import { openSwupdateSlots } from './swupdate.ts';

export const openDelegateSlots = ({ config, ...options }: DelegateOptions<DelegateConfig>): Promise<Slots> => {
  switch (config.installer) {
    case 'rauc':
      return openRaucSlots({ config, ...options });
    case 'swupdate':
      return openSwupdateSlots({ config, ...options });
    case 'command':
      return openCommandSlots({ config, ...options });
    default:
      return unreachable(config);
  }
};

/** Opens the A/B pair that is configured. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { unreachable } from '#shared/ids.ts';
import type { Supervisor } from '../application/supervisor.ts';
import type { AgentConfig } from '../config/config.ts';
import type { FileOwner } from '../disk/tree-writer.ts';
import type { Slots } from '../domain/slots.ts';
import type { Log } from '../log.ts';
import { asFarAsPossible } from '../process/system-error.ts';
import type { DelegateOptions } from './delegate/delegate-options.ts';
import { openDelegateSlots } from './delegate/open-delegate.ts';
import { openDirectorySlots } from './directories.ts';
import { openImageSlots } from './image.ts';
import { openSelector } from './selectors/open-selector.ts';

export const openSlots = async (
  config: Pick<AgentConfig, 'slots' | 'dataDir' | 'slotBytesMax' | 'compatible'>,
  parts: {
    supervisor: Supervisor;
    log: Log;
    owner?: FileOwner | null;
    onInstalled?: DelegateOptions<unknown>['onInstalled'];
  },
): Promise<Slots> => {
  const dir = join(config.dataDir, 'slots');
  await asFarAsPossible(mkdir(dir, { recursive: true }));
  switch (config.slots.kind) {
    case 'directories':
      return openDirectorySlots({
        dir,
        supervisor: parts.supervisor,
        dataDir: join(config.dataDir, 'application'),
        slotBytesMax: config.slotBytesMax,
        owner: parts.owner ?? null,
      });
    case 'image':
      return openImageSlots({
        config: config.slots,
        dir,
        compatible: config.compatible,
        selector: openSelector(config.slots.selector, dir),
        log: parts.log,
      });
    case 'delegate':
      return openDelegateSlots({
        config: config.slots,
        dir,
        compatible: config.compatible,
        log: parts.log,
        onInstalled: parts.onInstalled,
      });
    default:
      return unreachable(config.slots);
  }
};

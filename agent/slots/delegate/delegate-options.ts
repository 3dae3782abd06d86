/** What slots that an installer writes are opened with, whichever installer it is. */
import type { Log } from '#agent/log.ts';
import type { Id } from '#shared/ids.ts';
import type { InstallerOptions } from './installer.ts';

export type DelegateOptions<C> = {
  config: C;
  /** Records are kept here; the folder exists, and is on no slot. */
  dir: string;
  compatible: Id;
  log: Log;
  onInstalled?: InstallerOptions['onInstalled'];
  /** Called after every durable step; tests cut the power there. Default agent/process/crash-point.ts. */
  crashPoint?: (name: string) => void;
};

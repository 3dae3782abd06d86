/**
 * A process that SIGKILL does not reach, as one that is stuck in the kernel: its sender is not allowed to. The sender
 * is root without CAP_KILL, and the process becomes another user's.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

/** In front of the command of an agent that must not be able to kill it. */
export const WITHOUT_KILL = ['setpriv', '--bounding-set', '-kill', '--inh-caps', '-kill'];
export const UNKILLABLE = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', 'sleep'];

/** Needs root, and Linux's `setpriv`. */
export const canBeUnkillable = (): Promise<boolean> =>
  promisify(execFile)(WITHOUT_KILL[0]!, [...WITHOUT_KILL.slice(1), ...UNKILLABLE, '0']).then(
    () => process.getuid?.() === 0,
    () => false,
  );

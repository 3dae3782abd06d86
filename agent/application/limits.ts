/**
 * What the application may take of the device. Limits are the device's to set, not a release's: they protect the one
 * from the other. They are the kernel's per-process ones, set right before the application is executed; caps over
 * everything that the agent runs (memory, processor share) are its unit's (`MemoryMax=`, `CPUQuota=`): a second owner
 * of the unit's control group would break systemd's rules for them.
 */
import { Limits } from '../config/limits-config.ts';

/** `sh` makes these of itself and then becomes the application; one that cannot be set ends it with 125. */
export const limitScript = (limits: Limits, exec: string): string => {
  const blocks = (bytes: number, size: number): number => Math.max(1, Math.floor(bytes / size));
  const set = [
    limits.memoryBytes === undefined ? '' : `ulimit -d ${blocks(limits.memoryBytes, 1024)}`,
    limits.files === undefined ? '' : `ulimit -n ${limits.files}`,
    // dash calls it -p, which is read-only in others, where it is -u.
    limits.processes === undefined
      ? ''
      : `{ ulimit -u ${limits.processes} 2>/dev/null || ulimit -p ${limits.processes}; }`,
    limits.fileBytes === undefined ? '' : `ulimit -f ${blocks(limits.fileBytes, 512)}`,
  ].filter((command) => command !== '');
  const nice = limits.nice === undefined ? '' : `nice -n ${limits.nice} `;
  const guarded = set.length === 0 ? '' : `{ ${set.join(' && ')}; } || exit 125; `;
  return `${guarded}exec ${nice}${exec}`;
};
